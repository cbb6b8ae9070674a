"""A Redis Cluster on this machine, whose nodes a test may kill and whose slots it may move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import redis
from redis.crc import key_slot

from app.embedded.addresses import LOOPBACK
from tests.servers.single import RedisServer, unstarted_servers, unused_port, wait_until

SLOTS = 16_384
FORM_SECONDS_MAX = 30
MIGRATE_MS_MAX = 5000
NODE_TIMEOUT_MS = 1500
KEYS_PER_MOVE = 100

SETTINGS = {
    "cluster-enabled": "yes",
    "cluster-node-timeout": str(NODE_TIMEOUT_MS),
    "cluster-replica-validity-factor": "0",
    "cluster-require-full-coverage": "no",
    # A master without slots keeps its replica.
    "cluster-allow-replica-migration": "no",
    "cluster-announce-ip": LOOPBACK,
}

Role = Literal["master", "replica"]


@dataclass(frozen=True, eq=False)
class Node:
    """One process of the cluster; its id and port stay the same over restarts."""

    server: RedisServer
    id: str
    bus_port: int

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def url(self) -> str:
        return self.server.url


@dataclass(frozen=True)
class _Line:
    """What one node says of another, or of itself, in CLUSTER NODES."""

    id: str
    flags: frozenset[str]
    master_id: str | None
    slots: tuple[range, ...]


class Cluster:
    """See :func:`redis_cluster`. All methods block; in a coroutine, use ``asyncio.to_thread``."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes

    @property
    def url(self) -> str:
        """The first node that answers; clients find the others."""
        return self._responsive()[0].url

    def role(self, node: Node) -> Role:
        """What the other nodes, or the node itself, take it for."""
        return "master" if "master" in self._line(node).flags else "replica"

    def masters(self) -> list[Node]:
        return [node for node in self.nodes if self.role(node) == "master"]

    def replicas_of(self, master: Node) -> list[Node]:
        return [node for node in self.nodes if self._line(node).master_id == master.id]

    def slot_of(self, key: str) -> int:
        """0 to 16383; what stands between the first braces decides alone."""
        return key_slot(key.encode())

    def master_of(self, key: str) -> Node:
        """The owner of the key's slot."""
        return self.owner(self.slot_of(key))

    def owner(self, slot: int) -> Node:
        """The master that has ``slot``, as the first node that answers says."""
        return self._node(_owner_id(_view(self._responsive()[0]), slot))

    def kill(self, node: Node) -> None:
        node.server.kill()

    def freeze(self, node: Node) -> None:
        node.server.freeze()

    def thaw(self, node: Node) -> None:
        node.server.thaw()

    def restart(self, node: Node) -> None:
        """Start a killed node again and wait until all nodes that answer see each other."""
        node.server.restart()
        self.wait_healthy()

    def wait_failed_over(self, slot: int, seconds: float = 30) -> Node:
        """Wait until all nodes that answer agree on an owner of ``slot`` that answers too, and return it."""
        wait_until(lambda: self._agreed_owner(slot) is not None, seconds)
        return self.owner(slot)

    def wait_healthy(self, seconds: float = FORM_SECONDS_MAX) -> None:
        """Wait until all nodes that answer say ``cluster_state:ok`` and see each other, and replicas follow."""
        wait_until(lambda: all(self._is_healthy(node) for node in self._responsive()), seconds)

    def move_slot(
        self, slot: int, to: Node, *, key_by_key: bool = True, between: Callable[[list[bytes]], None] | None = None
    ) -> None:
        """Move a slot and its keys to another master.

        Args:
            key_by_key: one key in each step, else up to 100.
            between: called after each step with the keys that it moved, while the slot belongs to both. What it raises
                leaves the slot so; a second call finishes the move.
        """
        source = self.owner(slot)
        to.server.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.server.command("CLUSTER", "SETSLOT", slot, "MIGRATING", to.id)
        limit = 1 if key_by_key else KEYS_PER_MOVE
        while keys := source.server.command("CLUSTER", "GETKEYSINSLOT", slot, limit):
            source.server.command("MIGRATE", LOOPBACK, to.port, "", 0, MIGRATE_MS_MAX, "KEYS", *keys)
            if between is not None:
                between(keys)
        # The receiver first: otherwise nobody would own the slot if the move broke off here.
        others = [node for node in self.masters() if node not in (source, to) and node.server.responsive]
        for node in (to, source, *others):
            node.server.command("CLUSTER", "SETSLOT", slot, "NODE", to.id)
        wait_until(lambda: self._agreed_owner(slot) == to.id, FORM_SECONDS_MAX)

    def _agreed_owner(self, slot: int) -> str | None:
        try:
            owners = {_owner_id(_view(node), slot) for node in self._responsive()}
        except redis.RedisError:
            return None
        owner = owners.pop()
        agreed = not owners and owner != "" and self._node(owner).server.responsive
        return owner if agreed and all(_says(node, "cluster_state:ok") for node in self._responsive()) else None

    def _is_healthy(self, node: Node) -> bool:
        try:
            view = {line.id: line for line in _view(node)}
            if not _says(node, "cluster_state:ok"):
                return False
            own = node.server.command("INFO", "replication")
        except redis.RedisError:
            return False
        others = [view.get(other.id) for other in self._responsive()]
        seen = all(other is not None and not other.flags & {"handshake", "fail", "fail?"} for other in others)
        return seen and (own["role"] == "master" or own["master_link_status"] == "up")

    def _responsive(self) -> list[Node]:
        return [node for node in self.nodes if node.server.responsive]

    def _line(self, node: Node) -> _Line:
        return next(line for line in _view(self._responsive()[0]) if line.id == node.id)

    def _node(self, id: str) -> Node:
        return next(node for node in self.nodes if node.id == id)


@contextmanager
def redis_cluster(
    masters: int = 3, replicas: int = 1, *, program: str | None = None, **settings: str
) -> Iterator[Cluster]:
    """A healthy cluster of ``masters`` masters with ``replicas`` replicas each, gone with its data at the end.

    Slots are split evenly, in the order of ``nodes``: first all masters, then their first replicas, and so on.
    """
    defaults = {name.replace("-", "_"): value for name, value in SETTINGS.items()}
    with unstarted_servers(masters * (1 + replicas), program=program, **(defaults | settings)) as servers:
        nodes: list[Node] = []
        for server in servers:
            bus_port = unused_port()
            # The default, port + 10000, might be taken.
            server.settings["cluster-port"] = str(bus_port)
            server.start()
            nodes.append(Node(server, server.command("CLUSTER", "MYID").decode(), bus_port))
        _form(nodes, masters)
        cluster = Cluster(nodes)
        cluster.wait_healthy()
        yield cluster


def _form(nodes: list[Node], masters: int) -> None:
    """Give the masters their slots, introduce all nodes to each other, and attach the replicas."""
    for number, node in enumerate(nodes[:masters]):
        node.server.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        first, end = (SLOTS * bound // masters for bound in (number, number + 1))
        node.server.command("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
    for number, node in enumerate(nodes):
        for other in nodes[:number]:
            node.server.command("CLUSTER", "MEET", LOOPBACK, other.port, other.bus_port)
    wait_until(lambda: all(_knows(node, nodes) for node in nodes), FORM_SECONDS_MAX)
    for number, node in enumerate(nodes[masters:]):
        node.server.command("CLUSTER", "REPLICATE", nodes[number % masters].id)


def _knows(node: Node, others: list[Node]) -> bool:
    known = {line.id for line in _view(node) if "handshake" not in line.flags}
    return known >= {other.id for other in others}


def _says(node: Node, line: str) -> bool:
    return line in node.server.command("CLUSTER", "INFO").decode().splitlines()


def _owner_id(view: list[_Line], slot: int) -> str:
    return next((line.id for line in view if any(slot in slots for slots in line.slots)), "")


def _view(node: Node) -> list[_Line]:
    return [_line(text) for text in node.server.command("CLUSTER", "NODES").decode().splitlines()]


def _line(text: str) -> _Line:
    """Origin of the fields: the documentation of CLUSTER NODES; slots on their way stand in brackets."""
    id, _, flags, master_id, _, _, _, _, *slots = text.split()
    bounds = [[int(bound) for bound in slot.split("-")] for slot in slots if not slot.startswith("[")]
    found = tuple(range(bound[0], bound[-1] + 1) for bound in bounds)
    return _Line(id, frozenset(flags.split(",")), None if master_id == "-" else master_id, found)

"""A Redis Cluster: which master holds which slot, and where to send a command whose slot has moved."""

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any, Final

from redis.crc import key_slot

from eventstore.errors import ConnectionLostError, StoreUnavailableError
from eventstore.redis.wire.line import Command, Line, RefusedError, Server, pack
from eventstore.redis.wire.sender import Durability, Node

SLOTS: Final = 16384
RETRY_SECONDS: Final = 2
"""How long a command that did not run is sent again while the cluster rearranges itself."""

_PAUSE_SECONDS: Final = 0.01
_PAUSE_SECONDS_MAX: Final = 0.25
_ANSWER_SECONDS_MAX: Final = 1
_CLUSTER_SLOTS: Final = pack("CLUSTER", "SLOTS")
# The server says so before it runs the command.
_NOT_RUN: Final = frozenset({"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "LOADING"})


class Cluster:
    """The masters of a cluster, two connections to each at most.

    Args:
        seed: any node.
        lost: see :class:`eventstore.redis.wire.line.Line`.
    """

    def __init__(self, seed: Server, lost: Callable[[], None]) -> None:
        self._seed = seed
        self._lost = lost
        self._known = {seed.address: seed}
        self._nodes: dict[str, Node] = {}
        self._masters: list[Node | None] = [None] * SLOTS
        self._turns = count()
        self._outdated = True
        self._maps = 0
        self._refreshing = asyncio.Lock()
        self._closed = False

    async def send(self, key: str, command: Command, durability: Durability | None = None) -> Any:
        """Return the reply of a command, sent to the master that holds ``key``; to any master where it is empty.

        Raises:
            StoreUnavailableError: it did not run, as often as it was sent.
            ConnectionLostError: it may or may not have run; it was not sent again.
        """
        slot = key_slot(key.encode()) if key else None
        loop = asyncio.get_running_loop()
        ends = loop.time() + RETRY_SECONDS
        pause = _PAUSE_SECONDS
        while True:
            try:
                return await self._once(slot, command, durability)
            except ConnectionLostError:
                self._outdated = True
                raise
            except StoreUnavailableError as error:
                if isinstance(error, RefusedError) and error.code not in _NOT_RUN:
                    raise
                if self._closed or loop.time() + pause > ends:
                    raise StoreUnavailableError(f"the cluster did not take the command: {error}") from error
            self._outdated = True
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSE_SECONDS_MAX)

    async def _once(self, slot: int | None, command: Command, durability: Durability | None) -> Any:
        if self._outdated:
            await self.refresh()
        node = self._master(slot)
        try:
            return await node.send(command, durability)
        except RefusedError as error:
            if error.code != "ASK":
                raise
            return await self._receiver(error.text, node).send(command, durability, asking=True)

    def _master(self, slot: int | None) -> Node:
        if self._closed:
            raise StoreUnavailableError("the connection to the Redis server is closed")
        if slot is None:
            masters = self._masters_in_order()
            return masters[next(self._turns) % len(masters)]
        node = self._masters[slot]
        if node is None:
            raise StoreUnavailableError(f"no server of the cluster holds slot {slot}")
        return node

    async def masters(self) -> list[Node]:
        """Return the masters, in the order of their slots.

        Raises:
            StoreUnavailableError: none is known.
        """
        if self._outdated:
            await self.refresh()
        return self._masters_in_order()

    def _masters_in_order(self) -> list[Node]:
        found = [node for node in dict.fromkeys(self._masters) if node is not None]
        if not found:
            raise StoreUnavailableError("no server of the cluster holds any slot")
        return found

    def _receiver(self, ask: str, by: Node) -> Node:
        """Return the node that ``ASK <slot> <host>:<port>`` names."""
        host, _, port = ask.split()[2].rpartition(":")
        return self._node(host or by.server.host, int(port))

    def _node(self, host: str, port: int) -> Node:
        server = self._server(host, port)
        node = self._nodes.get(server.address)
        if node is None:
            node = self._nodes[server.address] = Node(server, self._lost)
        return node

    def _server(self, host: str, port: int) -> Server:
        server = Server(self._seed.url, self._seed.timeout_seconds, host, port)
        return self._known.setdefault(server.address, server)

    async def refresh(self) -> None:
        """Read the map of slots from any node that answers; concurrent callers share one reading.

        Raises:
            StoreUnavailableError: no known node answers.
        """
        seen = self._maps
        async with self._refreshing:
            if self._maps != seen:
                return
            problem: Exception | None = None
            for address, server in list(self._known.items()):
                # In turn, so that a node which is cut off from the others is not believed for ever.
                self._known[address] = self._known.pop(address)
                try:
                    async with asyncio.timeout(_ANSWER_SECONDS_MAX):
                        ranges = await self._ranges(server)
                except (StoreUnavailableError, TimeoutError) as error:
                    problem = error
                    continue
                self._apply(ranges, server)
                return
            raise StoreUnavailableError(f"no node of the cluster answers: {problem}") from problem

    async def _ranges(self, server: Server) -> list[Any]:
        line = Line(server, lambda: None)
        try:
            await line.ready(any_role=True)
            (ranges,) = await line.exchange((_CLUSTER_SLOTS,), 1)
        finally:
            line.close()
        if isinstance(ranges, RefusedError):
            raise ranges
        return list(ranges)

    def _apply(self, ranges: list[Any], asked: Server) -> None:
        masters: list[Node | None] = [None] * SLOTS
        for first, last, master, *replicas in ranges:
            masters[first : last + 1] = [self._node(*_endpoint(master, asked))] * (last - first + 1)
            for replica in replicas:
                self._server(*_endpoint(replica, asked))
        self._masters = masters
        self._maps += 1
        self._outdated = False
        in_use = set(masters)
        for address, node in list(self._nodes.items()):
            if node not in in_use:
                del self._nodes[address]
                node.retire()

    async def close(self) -> None:
        """Cut all connections. Idempotent."""
        self._closed = True
        for node in self._nodes.values():
            await node.close()


def _endpoint(node: list[Any], asked: Server) -> tuple[str, int]:
    """Return host and port; a node that does not know its own host is where it was asked."""
    host = (node[0] or b"").decode()
    return (host if host not in ("", "?") else asked.host), int(node[1])

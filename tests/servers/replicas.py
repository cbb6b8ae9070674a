"""A master with replicas behind one address, and failovers that lose acknowledged writes or do not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.servers.proxy import Proxy
from tests.servers.single import RedisServer, unstarted_servers, wait_until

SYNC_SECONDS_MAX = 30


@dataclass(eq=False)
class Replica:
    """A replica and the link by which it follows its master."""

    server: RedisServer
    link: Proxy

    def follows(self) -> bool:
        """Whether the replica is in step with its master, or only behind by what is under way."""
        return bool(_replication(self.server).get("master_link_status") == "up")

    def offset(self) -> int:
        """How many bytes of the master's history the replica has."""
        return int(_replication(self.server)["slave_repl_offset"])


@dataclass(eq=False)
class Replicated:
    """One master and its replicas; clients use ``url``, which stays the same when another server becomes the master."""

    master: RedisServer
    replicas: list[Replica]
    proxy: Proxy
    """Between clients and the master; has faults of its own."""
    fallen: list[RedisServer] = field(default_factory=list)
    """Former masters, killed, with their data."""

    @property
    def url(self) -> str:
        return self.proxy.url

    def pause_replication(self, replica: Replica) -> None:
        """From now on the replica receives nothing, while it and its master believe that they are connected.

        What a client writes afterwards is acknowledged by the master and missing on the replica. They notice after a
        minute.
        """
        replica.link.stall()

    def resume_replication(self, replica: Replica) -> None:
        """End :meth:`pause_replication`; the replica catches up soon, see :meth:`wait_caught_up`."""
        replica.link.flow()

    def failover_with_loss(self, replica: Replica | None = None) -> None:
        """Kill the master and promote a replica, by default the first, as it stands.

        Lost is what was written since :meth:`pause_replication`, which a test calls before, also where another replica
        has it: the other replicas follow the new master.
        """
        chosen = replica or self.replicas[0]
        self.pause_replication(chosen)
        self.master.kill()
        self._promote(chosen)

    def failover_without_loss(self, replica: Replica | None = None) -> None:
        """Cut clients off, wait until a replica, by default the first, has everything, and then do as above."""
        chosen = replica or self.replicas[0]
        self.proxy.refuse()
        self.proxy.cut_all()
        self.resume_replication(chosen)
        self.wait_caught_up(chosen)
        self.master.kill()
        self._promote(chosen)
        self.proxy.accept()

    def wait_caught_up(self, replica: Replica) -> None:
        """Wait until the replica has everything that the master has."""
        wait_until(
            lambda: replica.follows() and replica.offset() == int(_replication(self.master)["master_repl_offset"]),
            SYNC_SECONDS_MAX,
        )

    def _promote(self, replica: Replica) -> None:
        # What the link still holds must not reach the replica.
        replica.link.refuse()
        replica.link.cut_all()
        replica.server.settings.pop("replicaof", None)
        replica.server.command("REPLICAOF", "NO", "ONE")
        self.fallen.append(self.master)
        self.replicas.remove(replica)
        self.master = replica.server
        for other in self.replicas:
            other.link.target = self.master.url
            other.link.flow()
        self.proxy.target = self.master.url


@contextmanager
def master_with_replicas(replicas: int = 1, *, program: str | None = None, **settings: str) -> Iterator[Replicated]:
    """A master and ``replicas`` replicas in step with it; see :func:`tests.servers.single.redis_server`."""
    with unstarted_servers(1 + replicas, program=program, **settings) as (master, *others), ExitStack() as stack:
        master.start()
        followers = [Replica(server, stack.enter_context(Proxy(master.url, resp=False))) for server in others]
        for follower in followers:
            follower.server.settings["replicaof"] = f"127.0.0.1 {follower.link.port}"
            follower.server.start()
        group = Replicated(master, followers, stack.enter_context(Proxy(master.url)))
        for follower in followers:
            group.wait_caught_up(follower)
        yield group


def _replication(server: RedisServer) -> dict[str, Any]:
    found: dict[str, Any] = server.command("INFO", "replication")
    return found

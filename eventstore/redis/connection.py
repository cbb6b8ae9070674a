"""Commands to a Redis server or cluster: never again what may have run, concurrent ones in shared round trips."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from redis.crc import key_slot

from eventstore.errors import StoreUnavailableError
from eventstore.redis.scripts import Script
from eventstore.redis.wire.cluster import Cluster
from eventstore.redis.wire.line import Command, Line, RefusedError, Server, pack
from eventstore.redis.wire.sender import Durability, Node, Written

__all__ = ["WAIT_SECONDS_MAX", "Durability", "Pipeline", "RefusedError", "Written"]

COMMAND_TIMEOUT_SECONDS: Final = 5
WAIT_SECONDS_MAX: Final = 30
"""Longest that a reader waits for entries."""
READERS_MAX: Final = 8
"""Most readers that wait on a single server at the same time; the next one queues."""

_POLL_SECONDS_MIN: Final = 0.005
_POLL_SECONDS_MAX: Final = 0.04


class Pipeline:
    """Sends the commands of concurrent callers together, each command once; connects at first use.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``; any node of a cluster.
        timeout_seconds: for connecting, and for the answer of one round trip.

    Attributes:
        generation: grows with every connection that is lost: what was known of the server may no longer be true.

    Every method raises :class:`StoreUnavailableError` (not sent, or refused: see :class:`RefusedError`) and
    :class:`ConnectionLostError` (it may or may not have run).
    """

    def __init__(self, url: str, *, timeout_seconds: float = COMMAND_TIMEOUT_SECONDS) -> None:
        self.generation = 0
        self._seed = Server(url, timeout_seconds)
        self._node: Node | None = None
        self._cluster: Cluster | None = None
        self._discovering = asyncio.Lock()
        self._readers = _Readers(lambda: Line(self._seed, self._lost))
        self._closed = False

    async def execute(self, *command: Any, key: str | None = None) -> Any:
        """Return the reply of one command.

        Args:
            key: decides which master of a cluster gets it; by default the first argument, "" for any master.
        """
        if key is None:
            key = str(command[1]) if len(command) > 1 else ""
        return await self._send(key, pack(*command))

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Return the reply of a script, which is sent whole only when the server does not have it.

        Args:
            keys: at least one; all of one slot.
        """
        return await self._run(script, keys, args, None)

    async def run_durably(
        self, script: Script, keys: Sequence[str], args: Sequence[Any], durability: Durability
    ) -> Written:
        """Return the reply of a script and, from the same connection, how durable its writes are.

        Concurrent scripts with the same ``durability`` share one WAIT, after the last of them.
        """
        if not durability.replicas and not durability.flushed:
            return Written(await self._run(script, keys, args, None), 0, flushed=False)
        written: Written = await self._run(script, keys, args, durability)
        return written

    async def _run(
        self, script: Script, keys: Sequence[str], args: Sequence[Any], durability: Durability | None
    ) -> Any:
        try:
            return await self._send(keys[0], pack("EVALSHA", script.sha, len(keys), *keys, *args), durability)
        except RefusedError as error:
            if error.code != "NOSCRIPT":
                raise
        return await self._send(keys[0], pack("EVAL", script.text, len(keys), *keys, *args), durability)

    async def _send(self, key: str, command: Command, durability: Durability | None = None) -> Any:
        if self._node is None and self._cluster is None:
            await self._discover()
        if self._node is not None:
            return await self._node.send(command, durability)
        return await self._known_cluster().send(key, command, durability)

    async def read_streams(
        self, command: str, limit: int, wait_seconds: float, streams: Mapping[str, str], *prefix: str
    ) -> list[Any]:
        """Return the reply of XREAD or XREADGROUP, a list of stream and entries; empty where nothing came.

        Args:
            limit: most entries of each stream.
            wait_seconds: at most :data:`WAIT_SECONDS_MAX`; 0 does not wait.
            streams: the id to read after, by key.
            prefix: goes before COUNT, such as ``GROUP``, its name and the consumer's.
        """
        wait_seconds = min(wait_seconds, WAIT_SECONDS_MAX)
        if await self.clustered():
            return await self._poll((command, *prefix, "COUNT", limit), wait_seconds, streams)
        wait_ms = int(wait_seconds * 1000)
        block = ("BLOCK", wait_ms) if wait_ms > 0 else ()
        arguments = (command, *prefix, "COUNT", limit, *block, "STREAMS", *streams, *streams.values())
        return await self._readers.read(pack(*arguments), wait_seconds)

    async def _poll(self, command: tuple[Any, ...], wait_seconds: float, streams: Mapping[str, str]) -> list[Any]:
        """Read streams of several masters: a command that blocks would block everybody's pipeline."""
        slots: dict[int, list[str]] = {}
        for key in streams:
            slots.setdefault(key_slot(key.encode()), []).append(key)
        commands = [
            (keys[0], pack(*command, "STREAMS", *keys, *(streams[key] for key in keys))) for keys in slots.values()
        ]
        loop = asyncio.get_running_loop()
        ends = loop.time() + wait_seconds
        pause = _POLL_SECONDS_MIN
        while True:
            replies = await asyncio.gather(
                *(self._send(key, command_) for key, command_ in commands), return_exceptions=True
            )
            found = [stream for reply in replies if isinstance(reply, list) for stream in reply]
            # What one group of workers was given must reach it, whatever another server says.
            if not found:
                for reply in replies:
                    if isinstance(reply, BaseException):
                        raise reply
            left = ends - loop.time()
            if found or left <= 0:
                return found
            await asyncio.sleep(min(pause, left))
            pause = min(1.5 * pause, _POLL_SECONDS_MAX)

    async def each_master(self, *command: Any) -> list[tuple[str, Any]]:
        """Return the address and the reply of every master, in the order of their slots."""
        await self._discover()
        nodes = [self._node] if self._node is not None else await self._known_cluster().masters()
        return [(node.server.address, await node.send(pack(*command))) for node in nodes]

    async def clustered(self) -> bool:
        """Return whether the server belongs to a cluster."""
        await self._discover()
        return self._cluster is not None

    async def _discover(self) -> None:
        async with self._discovering:
            if self._closed:
                raise StoreUnavailableError("the connection to the Redis server is closed")
            if self._node is not None or self._cluster is not None:
                return
            node = Node(self._seed, self._lost)
            await node.plain.line.ready(any_role=True)
            if self._closed:
                await node.close()
                raise StoreUnavailableError("the connection to the Redis server is closed")
            if not node.plain.line.clustered:
                self._node = node
                return
            await node.close()
            cluster = Cluster(self._seed, self._lost)
            await cluster.refresh()
            self._cluster = cluster

    def _known_cluster(self) -> Cluster:
        if self._cluster is None:
            raise StoreUnavailableError("the connection to the Redis server is closed")
        return self._cluster

    def _lost(self) -> None:
        self.generation += 1

    async def close(self) -> None:
        """Answer those who wait with an error and cut all connections. Idempotent."""
        self._closed = True
        self._readers.close()
        if self._node is not None:
            await self._node.close()
        if self._cluster is not None:
            await self._cluster.close()
        # Transports close in the next turn of the loop.
        await asyncio.sleep(0)


class _Readers:
    """Connections for commands that block, each for one reader at a time."""

    def __init__(self, new_line: Callable[[], Line]) -> None:
        self._new_line = new_line
        self._free: list[Line] = []
        self._all: list[Line] = []
        self._places = asyncio.Semaphore(READERS_MAX)
        self._closed = False

    async def read(self, command: Command, wait_seconds: float) -> list[Any]:
        async with self._places:
            if self._closed:
                raise StoreUnavailableError("the connection to the Redis server is closed")
            if not self._free:
                self._free.append(self._new_line())
                self._all.append(self._free[-1])
            line = self._free.pop()
            try:
                await line.ready()
                (reply,) = await line.exchange((command,), 1, wait_seconds)
            finally:
                self._free.append(line)
            if isinstance(reply, RefusedError):
                if reply.demoted:
                    line.drop()
                raise reply
        return [] if reply is None else list(reply)

    def close(self) -> None:
        self._closed = True
        for line in self._all:
            line.close()

"""A TCP proxy that cuts each connection after a given number of the server's bytes."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

CHUNK_BYTES = 65_536


class CuttingProxy:
    """Stands between followers and the server at ``target``, which may be changed.

    Args:
        target: the server's ``http://`` address.
        cuts: after so many of the server's bytes a connection is cut, one after the other; later ones are not.
    """

    def __init__(self, target: str, cuts: Sequence[int]) -> None:
        self.target = target
        self.connections = 0
        self._cuts = cuts
        self._open: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Yield the address to connect to."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for task in tuple(self._open):
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        number = self.connections
        self.connections += 1
        left = self._cuts[number] if number < len(self._cuts) else None
        address = urlsplit(self.target)
        try:
            upstream = await asyncio.open_connection(address.hostname, address.port)
        except OSError:
            writer.transport.abort()
            return
        try:
            await self._pump((reader, writer), upstream, left)
        finally:
            for one in (writer, upstream[1]):
                one.transport.abort()

    async def _pump(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        left: int | None,
    ) -> None:
        pumps = [
            asyncio.create_task(_forward(client[0], server[1], None)),
            asyncio.create_task(_forward(server[0], client[1], left)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int | None) -> None:
    """Forward until the end, or ``left`` bytes; those arrive before the cut."""
    with suppress(OSError):
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data if left is None else data[:left])
            await writer.drain()
            if left is not None:
                left -= len(data)
                if left <= 0:
                    break
        writer.write_eof()

"""The API as a process of its own on given servers, with a ring of any size; ends with its standard input."""

import asyncio
import os
import sys

import msgspec
import uvloop
from msgspec import Struct

from app.api.application import Services, create_application
from app.api.orders.intake import OrderLimits
from app.api.server import Server, listen
from app.api.streaming.sessions import SocketLimits
from app.clock import SystemClock
from app.embedded import Servers
from app.main import build_streams, opened
from app.settings import Settings
from app.telemetry import set_up_logging
from tests.benchmarks.counting import allow_files


class Serve(Struct, frozen=True, kw_only=True):
    """What the process is told on its command line."""

    settings: Settings
    servers: Servers
    ring_frames_max: int = 20_000
    ring_characters_max: int = 32 * 1024 * 1024
    sockets: SocketLimits = SocketLimits()


async def serve(told: Serve) -> None:
    """Serve until standard input ends."""
    clock, stopping = SystemClock(), asyncio.Event()
    asyncio.get_running_loop().add_reader(0, lambda: stopping.set() if not os.read(0, 4096) else None)
    async with opened(told.settings, told.servers, "api") as (store, database):
        services = Services(
            store=store,
            streams=build_streams(store, clock, "api", told.settings.queue_max),
            database=database,
            clock=clock,
            version="bench",
            orders=OrderLimits(),
            sockets=told.sockets,
            ring_frames_max=told.ring_frames_max,
            ring_characters_max=told.ring_characters_max,
        )
        server = Server(create_application(services))
        await server.serve_until(stopping, listen(told.settings.host, told.settings.port))


def main() -> None:
    """Do as the command line says."""
    told = msgspec.json.decode(sys.argv[1], type=Serve)
    allow_files()
    set_up_logging(told.settings.log_level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(told))


if __name__ == "__main__":
    main()

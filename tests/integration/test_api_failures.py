"""A process of the API that can do its work no longer ends, so that whoever started it can start it again."""

import asyncio
import logging
import uuid
from collections.abc import Mapping, Sequence

import pytest

from app.api.application import Services, create_application
from app.api.server import Server, listen
from app.clock import SystemClock
from app.execution.streams import OrderStreams
from eventstore.ids import Cursor
from eventstore.memory import MemoryEventStore
from eventstore.store import StoredCommit
from projections.database import create_database_engine

END_SECONDS = 20


class UnreadableLog(MemoryEventStore):
    """Its log cannot be read, for a reason that nobody foresaw."""

    async def read_log(
        self, after: Mapping[int, Cursor], limit: int, wait_seconds: float = 0
    ) -> Sequence[StoredCommit]:
        raise ZeroDivisionError("a mistake")


def test_a_server_whose_log_cannot_be_followed_ends(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        clock = SystemClock()
        store = UnreadableLog(partitions=4, store_id="s", now_us=clock.now_us)
        database = create_database_engine("postgresql://nowhere/none", application_name="test")
        streams = OrderStreams(store, clock, lambda count: uuid.uuid4().bytes[:count], "test")
        services = Services(store=store, streams=streams, database=database, clock=clock, version="0")
        server = Server(create_application(services))
        async with asyncio.timeout(END_SECONDS):
            with pytest.raises(SystemExit, match="the event log can no longer be followed"):
                await server.serve_until(asyncio.Event(), listen("127.0.0.1", 0))

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert [record.msg for record in caplog.records if record.msg == "tailer_failed"] == ["tailer_failed"]

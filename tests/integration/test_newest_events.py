"""The newest events of a log whose older ones are in the archive."""

import asyncio

import pytest

from app.api.streaming.logs import LogReader
from app.api.streaming.ring import Frame, Ring
from app.api.streaming.scopes import AllScope, ClientScope, Last, LogScope
from eventstore.ids import partition_in
from tests.integration.copies import OWNER, Copies, on_copies


@pytest.mark.parametrize("scope", [AllScope(), ClientScope(OWNER)])
@pytest.mark.parametrize("count", [1, 3, 6, 8])
def test_the_newest_events_are_those_of_the_log_where_the_archive_ends_before_them(
    redis_url: str, database_url: str, scope: LogScope, count: int
) -> None:
    async def admits(_: Frame) -> bool:
        return True

    async def scenario(copies: Copies) -> None:
        order_id, _ = await copies.confirmed(2)
        assert (await copies.sweep()).trimmed > 0
        await copies.confirmed(1)
        reader = LogReader(copies.store, Ring(frames_max=1, characters_max=1), asyncio.Semaphore(1))
        place = await reader.place(scope, Last(count), admits)
        number = partition_in(order_id)
        assert place.cursors[number].position == 18 - count

    on_copies(redis_url, database_url, scenario)

"""Conditional requests: what the client knows is not sent again, and what has moved meanwhile is not cancelled."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from app.clock import SystemClock
from eventstore.memory import MemoryEventStore
from eventstore.store import Append, AppendResult
from projections.projector.runner import Projector
from tests.builders import stream_id
from tests.conftest import accepted, appends, execute, second
from tests.integration.api import LIFE, Api, live, on_memory, problem, redis_store, running
from tests.integration.test_freshness import BAD_EVENT


def test_the_tag_of_an_order_is_its_version_and_what_is_known_is_not_sent_again() -> None:
    async def scenario(api: Api) -> None:
        order_id = await api.place()
        path = f"/api/orders/{order_id}"
        for version, commands in ((1, LIFE[:0]), (2, LIFE[:1]), (4, LIFE[1:2])):
            await live(api.streams, order_id, commands)
            shown = await api.http.get(path)
            tag = f'"{version}"'
            assert (shown.headers["etag"], shown.json()["seq"]) == (tag, version)
            for known in (tag, f"W/{tag}", f'"99", {tag}', "*"):
                unchanged = await api.http.get(path, headers={"If-None-Match": known})
                assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", tag)
                assert "ordertape-position" in unchanged.headers
            for unknown in (f'"{version + 1}"', f"{version}", "", '"x"'):
                assert (await api.http.get(path, headers={"If-None-Match": unknown})).status_code == 200

    on_memory(scenario)


def test_a_row_that_may_change_without_a_new_version_has_no_tag(redis_url: str, database_url: str) -> None:
    first = appends(stream_id(), [[accepted()]])[0]

    async def main() -> None:
        async with redis_store(redis_url) as store, running(store, database_url) as api:
            await store.append(first)
            await Projector(store, api.database).project_available()
            await store.append(second(first.stream, first.events[-1].hash, BAD_EVENT))
            for quality in ("ok", "quarantined"):
                execute(database_url, "UPDATE orders SET quality = %s", quality)
                shown = await api.http.get(f"/api/orders/{first.stream}", headers={"If-None-Match": '"1"'})
                assert (shown.status_code, shown.json()["seq"]) == (200, 1)
                assert "etag" not in shown.headers

    asyncio.run(main())


@pytest.mark.parametrize("method,suffix", [("DELETE", ""), ("POST", "/cancel")])
def test_an_order_is_cancelled_only_at_the_version_that_the_client_has_seen(method: str, suffix: str) -> None:
    async def scenario(api: Api) -> None:
        order_id = await api.place()
        path = f"/api/orders/{order_id}"
        await live(api.streams, order_id, LIFE[:1])
        for stale in ('"1"', '"3"', '"1", "3"', 'W/"2"', "2", '"x"', ""):
            refused = await api.http.request(method, path + suffix, headers={"If-Match": stale})
            body = problem(refused, 412, "version_mismatch")
            assert (body["seq"], body["orderId"], refused.headers["etag"]) == (2, order_id, '"2"')
        assert (await api.http.get(path)).json()["status"] == "routing"
        done = await api.http.request(method, path + suffix, headers={"If-Match": '"7", "2"'})
        assert (done.status_code, done.json()["status"]) == (200, "cancelled")
        again = await api.http.request(method, path + suffix, headers={"If-Match": '"2"'})
        assert problem(again, 412, "version_mismatch")["seq"] == 3
        ended = await api.http.request(method, path + suffix, headers={"If-Match": '"3"'})
        problem(ended, 409, "order_ended")

    on_memory(scenario)


def test_any_version_will_do_for_a_star_and_none_of_an_order_that_does_not_exist() -> None:
    async def scenario(api: Api) -> None:
        order_id = await api.place()
        done = await api.http.delete(f"/api/orders/{order_id}", headers={"If-Match": "*"})
        assert done.json()["status"] == "cancelled"
        unknown = "/api/orders/01ARZ3NDEKTSV4RRFFQ69G5FAV-03"
        for tags in ("*", '"1"'):
            problem(await api.http.delete(unknown, headers={"If-Match": tags}), 404, "not_found")

    on_memory(scenario)


class RacingStore(MemoryEventStore):
    """Lets another writer be first, once, when it has one."""

    def __init__(self) -> None:
        super().__init__(partitions=4, store_id="memory", now_us=SystemClock().now_us)
        self.rival: Callable[[], Awaitable[None]] | None = None

    async def append(self, commit: Append) -> AppendResult:
        rival, self.rival = self.rival, None
        if rival is not None:
            await rival()
        return await super().append(commit)


RACES: list[tuple[dict[str, str], int]] = [({"If-Match": '"1"'}, 412), ({"If-Match": '"1", "2"'}, 200), ({}, 200)]


@pytest.mark.parametrize(("headers", "status"), RACES)
def test_an_order_that_moves_between_look_and_append_is_not_cancelled(headers: dict[str, str], status: int) -> None:
    async def main() -> None:
        store = RacingStore()
        async with running(store) as api:
            order_id = await api.place()
            store.rival = lambda: live(api.streams, order_id, LIFE[:1])
            answer = await api.http.delete(f"/api/orders/{order_id}", headers=headers)
            assert (answer.status_code, answer.json()["seq"]) == (status, 2 if status == 412 else 3)
            assert len(await store.read_stream(order_id)) == answer.json()["seq"]

    asyncio.run(main())

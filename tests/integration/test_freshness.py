"""Reads that ask for what was written before: they wait for it, say how fresh they are, and never pass off less."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import event

from eventstore.canonical import seal
from eventstore.ids import partition_in, partition_of
from eventstore.store import Append
from projections.database import create_database_engine
from projections.errors import NotReachedError
from projections.projector.runner import Projector
from projections.queries.freshness import Reaching
from tests.builders import stream_id
from tests.conftest import accepted, appends, execute, fill, memory_store, second
from tests.conftest import running as projecting
from tests.integration.api import NOWHERE, ORDER, Api, live, on_memory, problem, redis_store, running

CLIENT = str(ORDER["clientId"])
PARTITION = partition_of(CLIENT, 4)
NAME = f"{PARTITION:02d}"


def on_servers(redis_url: str, database_url: str, scenario: Callable[[Api], Awaitable[None]]) -> None:
    async def main() -> None:
        async with redis_store(redis_url) as store, running(store, database_url) as api:
            await scenario(api)

    asyncio.run(main())


async def project(api: Api) -> None:
    await Projector(api.store, api.database).project_available()


def test_a_client_that_lists_after_its_own_order_always_sees_it(redis_url: str, database_url: str) -> None:
    async def scenario(api: Api) -> None:
        async with projecting(database_url, api.store):
            for _ in range(20):
                placed = await api.http.post("/api/orders", json=ORDER)
                order_id, cursor = placed.json()["orderId"], placed.json()["cursor"]
                own = await api.http.get("/api/orders", params={"clientId": CLIENT, "afterCursor": cursor})
                assert own.json()["orders"][0]["orderId"] == order_id
                everybodys = {"minPosition": placed.headers["OrderTape-Position"]}
                listed = await api.http.get("/api/orders", params=everybodys)
                assert listed.json()["orders"][0]["orderId"] == order_id

    on_servers(redis_url, database_url, scenario)


def test_a_wait_that_ends_in_vain_names_what_was_wanted_and_what_was_reached(redis_url: str, database_url: str) -> None:
    async def scenario(api: Api) -> None:
        await api.place()
        cursor = (await api.http.post("/api/orders", json=ORDER)).json()["cursor"]
        for query in ({"afterCursor": f"{NAME}:{cursor}"}, {"clientId": CLIENT, "minPosition": "2"}):
            refused = await api.http.get("/api/orders", params={**query, "waitMs": "20"})
            body = problem(refused, 503, "read_model_behind")
            assert (body["partition"], body["wanted"], body["reached"]) == (PARTITION, 2, 0)
            assert refused.headers["retry-after"] == "1"
        await project(api)
        for query in ({"afterCursor": f"{NAME}:{cursor}"}, {"clientId": CLIENT, "minPosition": "2"}):
            listed = await api.http.get("/api/orders", params={**query, "waitMs": "0"})
            assert len(listed.json()["orders"]) == 2

    on_servers(redis_url, database_url, scenario)


def test_every_list_says_how_fresh_it_is(redis_url: str, database_url: str) -> None:
    async def scenario(api: Api) -> None:
        nothing = await api.http.get("/api/orders")
        assert nothing.json() == {"orders": [], "asOf": {"positions": {}, "lagMs": None}}
        assert "ordertape-lag-ms" not in nothing.headers
        await api.place()
        await project(api)
        positions = {f"{number:02d}": int(number == PARTITION) for number in range(4)}
        whole = await api.http.get("/api/orders")
        assert whole.json()["asOf"] == {"positions": positions, "lagMs": 0}
        assert whole.headers["ordertape-position"] == ",".join(f"{name}:{at}" for name, at in positions.items())
        assert whole.headers["ordertape-lag-ms"] == "0"

        await api.place()
        execute(database_url, "UPDATE checkpoints SET recorded_at = now() - interval '1 hour'")
        behind = await api.http.get("/api/orders", params={"clientId": CLIENT})
        assert behind.json()["asOf"]["positions"] == {NAME: 1}
        assert 3_600_000 <= behind.json()["asOf"]["lagMs"] < 3_660_000
        other = next(name for name in map(str, range(100)) if partition_of(name, 4) != PARTITION)
        elsewhere = await api.http.get("/api/orders", params={"clientId": other})
        assert elsewhere.json()["asOf"]["lagMs"] == 0

        execute(database_url, "UPDATE checkpoints SET recorded_at = NULL")
        from_archive = await api.http.get("/api/orders", params={"clientId": CLIENT})
        assert 0 < from_archive.json()["asOf"]["lagMs"] < 60_000

    on_servers(redis_url, database_url, scenario)


def test_a_list_without_the_log_says_no_lag_of_which_it_cannot_know(redis_url: str, database_url: str) -> None:
    async def main() -> None:
        async with redis_store(redis_url) as store, running(store, database_url) as api:
            await api.place()
            await project(api)
            await store.close()
            listed = await api.http.get("/api/orders", params={"clientId": CLIENT})
            assert len(listed.json()["orders"]) == 1
            assert listed.json()["asOf"]["lagMs"] > 0

    asyncio.run(main())


def test_a_cursor_of_an_event_that_did_not_last_is_a_fork(redis_url: str, database_url: str) -> None:
    async def scenario(api: Api) -> None:
        placed = (await api.http.post("/api/orders", json=ORDER)).json()
        await project(api)
        epoch, position, anchor = placed["cursor"].split("-")
        other = "0" * 8 if anchor != "0" * 8 else "1" * 8
        paths = [("/api/orders", f"{NAME}:"), (f"/api/orders/{placed['orderId']}", "")]
        for path, prefix in paths:
            for forked in (f"{epoch}-{position}-{other}", f"{int(epoch) + 1}-{position}-{anchor}"):
                body = problem(await api.http.get(path, params={"afterCursor": prefix + forked}), 409, "cursor_forked")
                assert (body["partition"], body["cursor"]) == (PARTITION, forked)
            kept = await api.http.get(path, params={"afterCursor": prefix + placed["cursor"]})
            assert kept.status_code == 200

        lost = {"afterCursor": f"{NAME}:{epoch}-9-{other}", "waitMs": "20"}
        problem(await api.http.get("/api/orders", params=lost), 503, "read_model_behind")
        execute(
            database_url,
            "INSERT INTO epochs (partition, epoch, position, incarnation, healed) VALUES (%s, %s, %s, 'x', 0)",
            PARTITION,
            int(epoch) + 1,
            int(position),
        )
        problem(await api.http.get("/api/orders", params=lost), 409, "cursor_forked")

    on_servers(redis_url, database_url, scenario)


def test_a_single_order_is_as_fresh_as_its_stream_without_the_read_model() -> None:
    async def scenario(api: Api) -> None:
        placed = await api.http.post("/api/orders", json=ORDER)
        order_id, cursor = placed.json()["orderId"], placed.json()["cursor"]
        assert placed.headers["ordertape-position"] == f"{NAME}:1"
        assert cursor == str((await api.store.read_stream(order_id))[0].cursor)
        await live(api.streams, order_id)
        later = (await api.http.post("/api/orders", json=ORDER)).json()["cursor"]
        for query in ({}, {"afterCursor": cursor}, {"afterCursor": f"{NAME}:{later}"}, {"minPosition": "7"}):
            shown = await api.http.get(f"/api/orders/{order_id}", params=query)
            assert shown.json()["seq"] == 6
            assert shown.json()["asOf"] == {"positions": {NAME: 6}, "lagMs": 0}
            assert shown.headers["ordertape-position"] == f"{NAME}:6"
            assert shown.headers["ordertape-lag-ms"] == "0"
        elsewhere = f"{(PARTITION + 1) % 4:02d}:99"
        shown = await api.http.get(f"/api/orders/{order_id}", params={"minPosition": elsewhere})
        assert shown.status_code == 200

    on_memory(scenario)


def test_a_single_order_is_not_shown_before_the_log_has_what_is_wanted(redis_url: str, database_url: str) -> None:
    async def scenario(api: Api) -> None:
        order_id = await api.place()
        query = {"minPosition": "2", "waitMs": "0"}
        refused = await api.http.get(f"/api/orders/{order_id}", params=query)
        assert problem(refused, 503, "read_model_behind")["wanted"] == 2

    on_servers(redis_url, database_url, scenario)


def test_an_answer_that_placed_repeated_or_cancelled_an_order_names_the_event() -> None:
    async def scenario(api: Api) -> None:
        headers = {"Idempotency-Key": "key-1"}
        placed, repeated = [await api.http.post("/api/orders", json=ORDER, headers=headers) for _ in range(2)]
        assert repeated.json()["duplicate"] is True
        assert repeated.json()["cursor"] == placed.json()["cursor"]
        order_id = placed.json()["orderId"]
        cancelled = await api.http.delete(f"/api/orders/{order_id}")
        assert cancelled.json()["cursor"] == str((await api.store.read_stream(order_id))[-1].cursor)

    on_memory(scenario)


@pytest.mark.parametrize(
    "query",
    [
        "minPosition=1",
        "minPosition=00:x",
        "minPosition=04:1",
        "minPosition=00:1,00:2",
        "minPosition=",
        "afterCursor=1-1-00000000",
        "afterCursor=00:1-1-0000",
        "afterCursor=0:1-1-00000000",
        "waitMs=5001",
        "waitMs=-1",
    ],
)
def test_freshness_that_cannot_be_understood_is_refused(query: str) -> None:
    async def scenario(api: Api) -> None:
        body = problem(await api.http.get(f"/api/orders?{query}"), 400, "invalid_query")
        assert str(body["detail"]).startswith(query.partition("=")[0])

    on_memory(scenario)


def test_everybody_who_waits_shares_one_question(database_url: str) -> None:
    store = fill(memory_store(), appends(stream_id("owner"), [[accepted()]]))
    partition = partition_in(stream_id("owner"))

    async def main() -> None:
        engine = create_database_engine(database_url, application_name="test")
        questions: list[str] = []
        event.listen(engine.sync_engine, "before_cursor_execute", lambda *parts: questions.append(parts[2]))

        async def sleep(_: float) -> None:
            before = len(questions)
            await Projector(store, engine).project_available()
            del questions[before:]

        reaching = Reaching(engine, sleep)
        await asyncio.gather(*(reaching.reached({partition: 1}, 20) for _ in range(50)))
        assert len([question for question in questions if "FROM checkpoints" in question]) == 2
        with pytest.raises(NotReachedError) as error:
            await reaching.reached({partition: 2}, 0)
        assert (error.value.partition, error.value.position, error.value.found) == (partition, 2, 1)
        await reaching.close()
        await engine.dispose()

    asyncio.run(main())


BAD_EVENT = {"event": "routing", "status": "routing", "meta": {"type": "AttemptStarted", "schema": 1}}


def test_an_order_with_a_bad_event_is_shown_as_the_read_model_has_it(redis_url: str, database_url: str) -> None:
    first = appends(stream_id(CLIENT), [[accepted()]], client=CLIENT)[0]
    order = first.stream

    async def scenario(api: Api) -> None:
        await api.store.append(first)
        await project(api)
        good = (await api.http.get("/api/orders")).json()["orders"][0]
        assert not {"quality", "qualityReason", "qualitySince"} & set(good)
        await api.store.append(second(order, first.events[-1].hash, BAD_EVENT))
        unprojected = (await api.http.get(f"/api/orders/{order}")).json()
        assert (unprojected["seq"], "quality" in unprojected) == (1, False)

        execute(
            database_url,
            "UPDATE orders SET quality = 'quarantined', quality_reason = 'broken', quality_since = '2027-01-15 08:00Z'",
        )
        listed = (await api.http.get("/api/orders")).json()["orders"][0]
        shown = (await api.http.get(f"/api/orders/{order}")).json()
        assert shown.pop("asOf")["positions"] == {NAME: 1}
        assert shown == listed
        assert (shown["quality"], shown["qualityReason"]) == ("quarantined", "broken")
        assert shown["qualitySince"] == "2027-01-15T08:00:00.000000Z"

        execute(database_url, "DELETE FROM orders")
        folded = (await api.http.get(f"/api/orders/{order}")).json()
        assert (folded["seq"], folded["quality"]) == (1, "quarantined")
        assert "attempt" in folded["qualityReason"]

    on_servers(redis_url, database_url, scenario)


def test_an_order_of_which_not_even_the_first_event_is_good_is_no_mistake_of_the_server(
    redis_url: str, database_url: str
) -> None:
    order = stream_id()
    frame = {**BAD_EVENT, "orderId": order, "seq": 1, "at": "2027-01-15T08:00:01.000000Z"}

    async def scenario(api: Api) -> None:
        await api.store.append(
            Append(stream=order, expected_version=0, expected_hash="", commit_id="c", events=(seal(frame, ""),))
        )
        body = problem(await api.http.get(f"/api/orders/{order}"), 503, "order_unreadable")
        assert body["orderId"] == order

    on_servers(redis_url, database_url, scenario)


def test_a_list_that_waits_for_a_database_that_is_down_says_so() -> None:
    assert NOWHERE

    async def scenario(api: Api) -> None:
        problem(await api.http.get("/api/orders?minPosition=00:1"), 503, "unavailable")

    on_memory(scenario)

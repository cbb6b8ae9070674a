"""Cancelling over the API: what each state of an order answers, and that an answer is true whoever else is at work."""

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Iterator
from itertools import cycle
from typing import Any, Final, get_args

import httpx
import pytest
from msgspec.structs import replace

from app.api.streaming.sessions import REQUESTS_MAX
from app.clock import SystemClock
from app.dex.profile import Profile
from app.execution.streams import CANCEL_TRIES
from app.main import build_worker, open_chain, open_hot_store
from app.orders.state import CancelPending, Exhausted, Quoted, Submitted, Terminal, Unsent
from app.settings import Settings
from eventstore.errors import OutcomeUnknownError, StoreUnavailableError, WrongVersionError
from eventstore.memory import MemoryEventStore
from eventstore.store import Append, AppendResult, StoredEvent
from tests.clocks import StepClock
from tests.desk import LIVES, Desk, Kind, Plot
from tests.integration.api import (
    ORDER,
    WAIT_SECONDS,
    Api,
    connected,
    hear,
    hear_many,
    on_memory,
    problem,
    redis_store,
    running,
    say,
)

CALM: Final = Profile(venue_error_ppm=0, venue_timeout_ppm=0, drop_ppm=0, fork_ppm=0)
NOTHING_LANDS: Final = replace(CALM, landing_ppm=(0,))
MARKET: Final[dict[str, tuple[Kind, Plot]]] = {
    "is confirmed": ("market", ["confirmed"]),
    "waits for a further attempt": ("market", ["no_quote"]),
    "fails": ("market", ["no_quote", "expired", "slippage"]),
}


def lives() -> Iterator[tuple[Kind, Plot]]:
    """Every life of the desk, and where each stands after each of its steps."""
    known: set[tuple[Kind, tuple[str, ...]]] = set()
    for kind, plot in [*LIVES.values(), *MARKET.values()]:
        for length in range(len(plot) + 1):
            if (kind, tuple(plot[:length])) not in known:
                known.add((kind, tuple(plot[:length])))
                yield kind, plot[:length]


def on_desk(scenario: Callable[[Api, Desk], Awaitable[None]], store: MemoryEventStore | None = None) -> None:
    """Run ``scenario`` on a server whose store is memory, with a desk that leads its orders; no time really passes."""

    async def main() -> None:
        clock = StepClock()
        kept = store or MemoryEventStore(partitions=4, store_id="memory", now_us=clock.now_us)
        async with running(kept, clock=clock) as api:
            await scenario(api, Desk(kept, clock))

    asyncio.run(main())


async def event_names(api: Api, order_id: str) -> list[str]:
    """The names of the order's events."""
    return [json.loads(event.data)["event"] for event in await api.store.read_stream(order_id)]


async def ask_by_delete(api: Api, order_id: str) -> httpx.Response:
    return await api.http.delete(f"/api/orders/{order_id}")


async def ask_by_post(api: Api, order_id: str) -> httpx.Response:
    return await api.http.post(f"/api/orders/{order_id}/cancel")


async def ask_with_a_body(api: Api, order_id: str) -> httpx.Response:
    return await api.http.post(f"/api/orders/{order_id}/cancel", json={})


def test_every_state_has_its_answer_over_http() -> None:
    async def scenario(api: Api, desk: Desk) -> None:
        met: set[tuple[Kind, type]] = set()
        for (kind, plot), ask in zip(lives(), cycle([ask_by_delete, ask_by_post, ask_with_a_body]), strict=False):
            order_id = await desk.live(plot, kind=kind)
            state, before = (await desk.streams.load(order_id)).state, await event_names(api, order_id)
            if (kind, type(state)) in met:
                continue
            met.add((kind, type(state)))
            response = await ask(api, order_id)
            after = await event_names(api, order_id)
            if isinstance(state, Terminal):
                body = problem(response, 409, "order_ended")
                assert (body["orderId"], body["orderStatus"]) == (order_id, type(state).__name__.lower())
                assert after == before
                continue
            expected = ("cancelled", "FAILED") if isinstance(state, Unsent) else ("cancel_pending", "PROCESSING")
            assert response.status_code == (200 if isinstance(state, Unsent) else 202)
            events = (await api.http.get(f"/api/orders/{order_id}/events")).json()["events"]
            caused = {} if isinstance(state, CancelPending) else {"cursor": events[-1]["cursor"]}
            assert response.json() == {
                "orderId": order_id,
                "status": expected[0],
                "phase": expected[1],
                "seq": len(after),
                **caused,
            }
            assert after == (before if isinstance(state, CancelPending) else [*before, expected[0]])
            assert (await api.http.get(f"/api/orders/{order_id}")).json()["status"] == expected[0]
        # The other two stand within a commit only, never at the end of one.
        assert {state for _, state in met} == {*get_args(Unsent), *get_args(Terminal), Submitted, CancelPending} - {
            Quoted,
            Exhausted,
        }

    on_desk(scenario)


def test_a_repeated_request_changes_nothing() -> None:
    async def scenario(api: Api, desk: Desk) -> None:
        resting, submitted = await desk.live(["rest"], kind="limit"), await desk.live(["submitted"])
        assert (await ask_by_delete(api, resting)).status_code == 200
        assert problem(await ask_by_delete(api, resting), 409, "order_ended")["orderStatus"] == "cancelled"
        assert (await event_names(api, resting)).count("cancelled") == 1
        first, *others = [(await ask_by_post(api, submitted)).json() for _ in range(3)]
        # The first one caused an event, whose cursor it names.
        assert "cursor" in first
        assert [{**other, "cursor": first["cursor"]} for other in others] == [first, first]
        assert (await event_names(api, submitted)).count("cancel_pending") == 1

    on_desk(scenario)


@pytest.mark.parametrize(
    ("outcome", "ending"),
    [("expired", ["attempt_failed", "cancelled"]), ("confirmed", ["cancel_rejected", "confirmed"])],
)
def test_a_pending_cancellation_ends_with_the_swap(outcome: str, ending: list[str]) -> None:
    async def scenario(api: Api, desk: Desk) -> None:
        order_id = await desk.live(["submitted"])
        assert (await ask_by_delete(api, order_id)).status_code == 202
        await desk.lead(order_id, outcome)
        assert (await event_names(api, order_id))[-3:] == ["cancel_pending", *ending]
        assert problem(await ask_by_delete(api, order_id), 409, "order_ended")["orderStatus"] == ending[-1]

    on_desk(scenario)


def test_a_socket_cancels_and_is_answered_in_band() -> None:
    async def scenario(api: Api, desk: Desk) -> None:
        waiting, submitted = await desk.live(["accepted"]), await desk.live(["submitted"])
        ended = await desk.live(["confirmed"])
        async with connected(api) as socket:
            await say(socket, type="cancel", orderId=waiting, id=1)
            answer = await hear(socket)
            cursor = str((await api.store.read_stream(waiting, 1))[0].cursor)
            assert answer == {"type": "cancelled", "id": 1, "orderId": waiting, "seq": 2, "cursor": cursor}
            pending = {"type": "cancel_pending", "orderId": submitted, "seq": 6}
            await say(socket, type="cancel", orderId=submitted)
            answer = await hear(socket)
            assert answer == {**pending, "cursor": str((await api.store.read_stream(submitted, 5))[0].cursor)}
            # The second one causes no event.
            await say(socket, type="cancel", orderId=submitted)
            assert await hear(socket) == pending
            await say(socket, type="cancel", orderId=ended, id="late")
            refused = await hear(socket)
            facts = {"type": "error", "code": "order_ended", "id": "late", "orderId": ended, "orderStatus": "confirmed"}
            problem = {"type": "/problems/order_ended", "title": "The order has ended", "status": 409}
            told = {"message": refused["message"], "problem": {**problem, "detail": refused["message"]}}
            assert refused == {**facts, **told}
            unknown = "01ARZ3NDEKTSV4RRFFQ69G5FAV-03"
            await say(socket, type="cancel", orderId=unknown, id=3)
            missing = await hear(socket)
            assert (missing["code"], missing["id"], missing["orderId"]) == ("not_found", 3, unknown)

    on_desk(scenario)


def test_a_subscriber_sees_the_cancellation_as_the_last_event() -> None:
    async def scenario(api: Api) -> None:
        async with connected(api) as socket:
            await say(socket, **ORDER)
            order_id = (await hear(socket))["orderId"]
            await say(socket, type="cancel", orderId=order_id, id=1)
            answer, event = sorted(await hear_many(socket, 2), key=lambda frame: "event" in frame)
            assert (answer["type"], answer["seq"]) == ("cancelled", 2)
            assert (event["event"], event["status"], event["seq"]) == ("cancelled", "cancelled", 2)
            assert (event["by"], event["code"], event["phase"]) == ("client", "requested", "FAILED")
            await say(socket, type="unsubscribe", orderId=order_id)
            assert (await hear(socket))["code"] == "not_subscribed"

    on_memory(scenario)


def test_an_order_of_a_partition_that_there_is_none_of_cannot_be_cancelled(redis_url: str) -> None:
    async def main() -> None:
        async with redis_store(redis_url) as store, running(store) as api:
            problem(await ask_by_delete(api, "01ARZ3NDEKTSV4RRFFQ69G5FAV-77"), 404, "not_found")

    asyncio.run(main())


def test_an_order_that_does_not_exist_cannot_be_cancelled() -> None:
    async def scenario(api: Api) -> None:
        for order_id in ("01ARZ3NDEKTSV4RRFFQ69G5FAV-03", "01ARZ3NDEKTSV4RRFFQ69G5FAV-77"):
            problem(await ask_by_delete(api, order_id), 404, "not_found")
            problem(await ask_by_post(api, order_id), 404, "not_found")
        problem(await ask_by_delete(api, "nonsense"), 400, "order_id_malformed")
        problem(await api.http.put("/api/orders/01ARZ3NDEKTSV4RRFFQ69G5FAV-03"), 405, "method_not_allowed")

    on_memory(scenario)


def test_a_body_that_asks_for_more_is_refused_and_nothing_is_cancelled() -> None:
    async def scenario(api: Api) -> None:
        order_id = await api.place()
        path = f"/api/orders/{order_id}/cancel"
        body = problem(await api.http.post(path, json={"force": True}), 400, "invalid_message")
        assert body["errors"] == [{"pointer": "/force", "message": "is not a field here; none is accepted"}]
        problem(await api.http.post(path, content=b"now"), 400, "json_malformed")
        problem(await api.http.post(path, content=b" " * 65_537), 413, "body_too_large")
        assert await event_names(api, order_id) == ["pending"]

    on_memory(scenario)


class FailingStore(MemoryEventStore):
    """Every append to an order that exists raises ``error``; so does every read when ``unreadable``."""

    def __init__(self, error: Exception, *, unreadable: bool = False) -> None:
        super().__init__(partitions=4, store_id="memory", now_us=StepClock().now_us)
        self.error = error
        self.unreadable = unreadable
        self.tried = 0

    async def append(self, commit: Append) -> AppendResult:
        if commit.expected_version:
            self.tried += 1
            raise self.error
        return await super().append(commit)

    async def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> Any:
        if self.unreadable:
            raise self.error
        return await super().read_stream(stream, after, limit)


FAILING = [
    (WrongVersionError("s", 1, 2, ""), "order_moving", "the order is moving, ask again", CANCEL_TRIES),
    (OutcomeUnknownError("c", "no answer"), "outcome_unknown", "the order is not known to be cancelled: ask again", 4),
    (StoreUnavailableError("down"), "unavailable", "not known to be cancelled: ask again", 1),
]


@pytest.mark.parametrize(("error", "code", "part", "tries"), FAILING)
def test_what_is_not_known_to_be_cancelled_is_answered_so(error: Exception, code: str, part: str, tries: int) -> None:
    store = FailingStore(error)

    async def scenario(api: Api, desk: Desk) -> None:
        order_id = await desk.live(["accepted"])
        response = await ask_by_delete(api, order_id)
        assert part in str(problem(response, 503, code)["detail"])
        assert response.headers["retry-after"] == "1"
        assert store.tried == tries
        async with connected(api) as socket:
            await say(socket, type="cancel", orderId=order_id, id=7)
            refused = await hear(socket)
            assert (refused["type"], refused["code"], refused["id"]) == ("error", code, 7)

    on_desk(scenario, store)


def test_an_outage_while_the_order_is_looked_up_is_one() -> None:
    store = FailingStore(StoreUnavailableError("down"))

    async def scenario(api: Api, desk: Desk) -> None:
        order_id = await desk.live(["accepted"])
        store.unreadable = True
        assert problem(await ask_by_delete(api, order_id), 503, "unavailable")
        store.unreadable = False

    on_desk(scenario, store)


class HeldReads(MemoryEventStore):
    """Reads of streams wait until ``open`` is set."""

    def __init__(self) -> None:
        super().__init__(partitions=4, store_id="memory", now_us=SystemClock().now_us)
        self.open = asyncio.Event()

    async def read_stream(self, stream: str, after: int = 0, limit: int = 1000) -> "list[StoredEvent]":
        await self.open.wait()
        return list(await super().read_stream(stream, after, limit))


def test_cancellations_under_way_on_one_socket_are_bounded() -> None:
    async def main() -> None:
        store = HeldReads()
        async with running(store) as api, connected(api) as socket:
            order_id = await api.place()
            for number in range(REQUESTS_MAX + 1):
                await say(socket, type="cancel", orderId=order_id, id=number)
            refused = await hear(socket)
            assert (refused["code"], refused["id"]) == ("rate_limited", REQUESTS_MAX)
            store.open.set()
            answers = await hear_many(socket, REQUESTS_MAX)
            assert [answer["type"] for answer in answers].count("cancelled") == 1

    asyncio.run(main())


async def raced(api: Api, number: int) -> tuple[str, httpx.Response]:
    """Place an order, and ask for its end when it has had ``number`` % 8 events, or waits for its price, or ended."""
    terms: list[dict[str, object]] = [{}, {"type": "limit", "price": "1"}, {"type": "limit", "price": "9999"}]
    order = {"clientId": f"client {number % 5}", "amount": "1", "side": "sell", "slippageBps": 500}
    order_id = await api.place(**order, **terms[number % len(terms)])
    seen = 0
    while seen < number % 8:
        names = await event_names(api, order_id)
        seen = 8 if names[-1] in ("resting", "confirmed", "failed") else len(names)
        await asyncio.sleep(0)
    ask = ask_by_delete if number % 2 else ask_by_post
    return order_id, await ask(api, order_id)


async def ended(api: Api, order_id: str) -> str:
    while not isinstance((await api.streams.load(order_id)).state, Terminal):
        await api.store.read_log(await api.store.log_ends(), 100, 0.1)
    return str((await api.http.get(f"/api/orders/{order_id}")).json()["status"])


@pytest.mark.parametrize(
    ("races", "profile"),
    [
        (14, CALM),
        pytest.param(200, CALM, marks=pytest.mark.slow),
        pytest.param(40, NOTHING_LANDS, marks=pytest.mark.slow),
    ],
)
def test_no_answer_is_false_while_workers_execute_the_orders(redis_url: str, races: int, profile: Profile) -> None:
    """Cancelled means that the chain has no swap of it; pending means that exactly the chain decides."""

    async def main() -> None:
        settings = Settings(namespace=f"c{secrets.token_hex(5)}", speed_ppm=0, claim_idle_ms=6_000)
        store = await open_hot_store(settings, redis_url, "test")
        chain, connection = open_chain(settings, redis_url, profile)
        stopping = asyncio.Event()
        async with running(store) as api, asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(build_worker(settings, store, chain, SystemClock(), profile=profile).run(stopping))
            async with asyncio.timeout(3 * WAIT_SECONDS):
                answers = await asyncio.gather(*(raced(api, number) for number in range(races)))
                ends = {order_id: await ended(api, order_id) for order_id, _ in answers}
            stopping.set()
        executed = [entry.order_id for entry in await chain.ledger() if entry.outcome == "executed"]
        await connection.close()
        await store.close()
        told = set()
        for order_id, response in answers:
            told.add((response.status_code, ends[order_id]))
            assert executed.count(order_id) == (1 if ends[order_id] == "confirmed" else 0)
            if response.status_code == 200:
                assert ends[order_id] == "cancelled"
            elif response.status_code == 409:
                assert response.json()["orderStatus"] == ends[order_id] != "cancelled"
            else:
                assert response.status_code == 202
                assert ends[order_id] == ("confirmed" if profile is CALM else "cancelled")
        assert {status for status, _ in told} >= ({200, 409} if profile is CALM else {200, 202})

    asyncio.run(main())

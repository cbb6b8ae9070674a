"""The laws of the read model's fold, on the frames that the domain writes; and of events in PostgreSQL."""

import asyncio
import random
import string
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from app.orders.codec import from_frame
from app.orders.events import AttemptFailed, AttemptStarted, OrderAccepted, OrderCancelled, Side
from app.orders.evolve import evolve
from app.orders.money import format_units
from app.orders.state import Absent, Cancelled, Confirmed, Expired, Failed, Rejected, State
from eventstore.canonical import MAX_INTEGER, canonical, seal
from projections.errors import FrameError, OrderMismatchError
from projections.fold.frames import Frame, decode_frame
from projections.fold.orders import OrderRow, apply
from tests.builders import EVERY_EVENT, stream_id
from tests.conftest import (
    EMPTY,
    Life,
    accepted,
    appends,
    confirmed,
    execute,
    fill,
    market_life,
    memory_store,
    project,
    random_life,
    second,
    submitted,
)
from tests.moves import play

ORDER = stream_id(number=1)

chances = st.randoms(use_true_random=False)
units = st.integers(0, 2**64 - 1)


def stored(chance: random.Random, order_id: str = ORDER) -> list[bytes]:
    """The stored events of a random life."""
    return [event.data for commit in appends(order_id, random_life(chance)) for event in commit.events]


def frames_of(datas: list[bytes]) -> list[Frame]:
    return [decode_frame(data, "an event") for data in datas]


def folded(frames: list[Frame]) -> OrderRow:
    row: OrderRow | None = None
    for frame in frames:
        row = apply(row, frame)
    assert row is not None
    return row


@given(chances)
def test_a_row_is_at_the_version_hash_status_and_time_of_its_last_event(chance: random.Random) -> None:
    frames = frames_of(stored(chance))
    row = folded(frames)
    last = frames[-1]
    assert (row.version, row.head_hash, row.status) == (len(frames), last.meta.hash, last.status)
    assert (row.created_at, row.updated_at) == (frames[0].at, last.at)


@given(chances)
def test_a_row_agrees_with_the_state_of_the_order(chance: random.Random) -> None:
    datas = stored(chance)
    state: State = Absent()
    for data in datas:
        state = evolve(state, from_frame(data))
    row = folded(frames_of(datas))
    assert (row.status == "confirmed") == isinstance(state, Confirmed)
    assert (row.status == "failed") == isinstance(state, Failed)
    assert (row.amount_out is not None) == isinstance(state, Confirmed)
    if isinstance(state, Confirmed):
        assert row.failure_code is None
    if isinstance(state, Failed):
        assert row.failure_code == state.error.code


@given(chances, st.integers(1, 60))
def test_a_row_says_how_an_order_of_any_type_ended(chance: random.Random, moves: int) -> None:
    events, states = play(chance, moves)
    if not events:
        return
    row = folded(frames_of([event.data for commit in appends(ORDER, [[e] for e in events]) for event in commit.events]))
    failures = [event.error for event in events if isinstance(event, AttemptFailed)]
    last = (failures[-1].code, failures[-1].message) if failures else (None, None)
    match states[-1]:
        case Confirmed():
            expected: tuple[str | None, str | None] = (None, None)
        case Cancelled(code=code):
            assert isinstance(events[-1], OrderCancelled)
            expected = (code, events[-1].message)
        case Rejected(error=error) | Failed(error=error):
            expected = (error.code, error.message)
        case _:
            expected = last
    assert (row.failure_code, row.failure_message) == expected
    assert (row.status == "expired") == isinstance(states[-1], Expired)


@given(chances)
def test_a_row_keeps_what_a_limit_order_asks_for_and_nothing_of_it_for_others(chance: random.Random) -> None:
    (order, *_), _ = play(chance, 60)
    assert isinstance(order, OrderAccepted)
    row = folded(frames_of([appends(ORDER, [[order]])[0].events[0].data]))
    limited = order.order_type == "limit"
    assert (row.limit_price is None, row.time_in_force) == (not limited, order.time_in_force if limited else None)
    assert row.expire_at == order.expire_at
    if limited:
        assert row.limit_price == (order.limit_price or "").removesuffix(".0")


def limit_order(price: str | None) -> OrderAccepted:
    return replace(accepted(), order_type="limit", limit_price=price)


@pytest.mark.parametrize(
    ("price", "kept"),
    [("1", "1"), ("163.50", "163.5"), ("200.000", "200"), ("0.000000000000000001", "0.000000000000000001")],
)
def test_a_limit_price_is_kept_as_the_shortest_exact_decimal(price: str, kept: str) -> None:
    assert folded(frames_of([appends(ORDER, [[limit_order(price)]])[0].events[0].data])).limit_price == kept


@pytest.mark.parametrize("price", ["", "1e3", "-1", "1.", "0.0000000000000000001", "100000000000000000000"])
def test_a_limit_price_that_the_column_cannot_hold_is_refused(price: str) -> None:
    with pytest.raises(FrameError, match="is not a price"):
        folded(frames_of([appends(ORDER, [[limit_order(price)]])[0].events[0].data]))


def test_a_limit_order_without_a_price_is_refused() -> None:
    with pytest.raises(FrameError, match="lacks limitPrice"):
        folded(frames_of([appends(ORDER, [[limit_order(None)]])[0].events[0].data]))


@pytest.mark.parametrize("field", ["code", "message"])
def test_a_cancellation_that_lacks_its_reason_is_refused(field: str) -> None:
    cancelled = next(event for event in EVERY_EVENT if isinstance(event, OrderCancelled))
    datas = [event.data for commit in appends(ORDER, [[accepted()], [cancelled]]) for event in commit.events]
    damaged: dict[str, Any] = msgspec.json.decode(datas[1])
    del damaged[field]
    with pytest.raises(FrameError, match=f"OrderCancelled lacks {field}"):
        folded(frames_of([datas[0], canonical(damaged)]))


@given(chances, st.integers(0, 30))
def test_a_repeated_event_is_refused(chance: random.Random, place: int) -> None:
    frames = frames_of(stored(chance))
    with pytest.raises(OrderMismatchError) as refusal:
        apply(folded(frames), frames[place % len(frames)])
    assert (refusal.value.order_id, refusal.value.version) == (ORDER, len(frames))


@given(chances, st.integers(0, 30))
def test_a_missing_event_is_noticed_at_the_next_one(chance: random.Random, place: int) -> None:
    frames = frames_of(stored(chance))
    kept = frames[: place % len(frames)]
    for later in frames[len(kept) + 1 :]:
        with pytest.raises(OrderMismatchError):
            apply(folded(kept) if kept else None, later)


def test_an_event_of_another_history_is_refused() -> None:
    ours = frames_of([event.data for commit in appends(ORDER, market_life()) for event in commit.events])
    other = frames_of([event.data for commit in appends(ORDER, market_life("buy")) for event in commit.events])
    with pytest.raises(OrderMismatchError, match="continues another history"):
        apply(folded(ours[:2]), other[2])


def test_an_event_of_another_order_is_refused_even_if_its_chain_fits() -> None:
    row = folded(frames_of(stored(random.Random(1)))[:1])
    stranger = seal(_started(stream_id(number=2), 2), row.head_hash)
    with pytest.raises(OrderMismatchError, match="continues another history"):
        apply(row, decode_frame(stranger.data, "an event"))


@given(st.dictionaries(st.sampled_from(["attempt", "chosen", "txId", "receipt", "error", "note"]), st.just(None)))
def test_an_event_type_unknown_here_changes_status_version_hash_and_time_only(extra: dict[str, None]) -> None:
    row = folded(frames_of(stored(random.Random(3))))
    frame = {**_started(ORDER, row.version + 1), **extra, "status": "resting", "event": "resting"}
    frame["meta"] = {"type": "OrderRested", "schema": 1}
    sealed = seal(frame, row.head_hash)
    after = apply(row, decode_frame(sealed.data, "an event"))
    changed = {name for name, value in asdict(after).items() if value != getattr(row, name)}
    assert changed == {"status", "version", "head_hash", "updated_at"}
    assert (after.status, after.version, after.head_hash) == ("resting", row.version + 1, sealed.hash)


@given(units, units)
def test_amounts_of_the_receipt_become_base_units_exactly(paid: int, received: int) -> None:
    sides: dict[Side, tuple[int, int]] = {"sell": (9, 6), "buy": (6, 9)}
    for side, (paid_decimals, received_decimals) in sides.items():
        outcome = confirmed(paid=format_units(paid, paid_decimals), received=format_units(received, received_decimals))
        life: Life = [
            [accepted(side)],
            [AttemptStarted(attempt=1)],
            [submitted()],
            [outcome],
        ]
        row = folded(frames_of([event.data for commit in appends(ORDER, life) for event in commit.events]))
        assert (row.amount_in, row.amount_out, row.network_fee) == (paid, received, 5000)
        assert row.fee == 375 * 10**paid_decimals // 100_000


@pytest.mark.parametrize("amount", ["1.0000000001", "-1", "1e3", "", "1.", ".5", "1,5", "١"])
def test_an_amount_that_is_not_one_of_the_asset_is_refused(amount: str) -> None:
    life: Life = [[accepted()], [AttemptStarted(attempt=1)], [submitted()], [confirmed(paid=amount)]]
    frames = frames_of([event.data for commit in appends(ORDER, life) for event in commit.events])
    with pytest.raises(FrameError, match="is not an amount with 9 decimals"):
        folded(frames)


@pytest.mark.parametrize(
    ("version", "field"),
    [(1, "side"), (1, "decimals"), (1, "amount"), (2, "attempt"), (4, "chosen"), (5, "txId"), (6, "receipt")],
)
def test_an_event_that_lacks_what_its_type_promises_is_refused_by_name(version: int, field: str) -> None:
    datas = [event.data for commit in appends(ORDER, market_life()) for event in commit.events]
    damaged: dict[str, Any] = msgspec.json.decode(datas[version - 1])
    del damaged[field]
    frames = frames_of([*datas[: version - 1], canonical(damaged)])
    with pytest.raises(FrameError, match=f"lacks {field}") as refusal:
        folded(frames)
    assert refusal.value.event == f"{ORDER}/{version}"


def test_an_order_for_what_is_not_an_amount_is_refused() -> None:
    first = appends(ORDER, [[accepted(amount="NaN")]])[0].events[0]
    with pytest.raises(FrameError, match="'NaN' is not an amount with 9 decimals"):
        folded(frames_of([first.data]))


def test_an_order_begins_with_its_acceptance() -> None:
    sealed = seal(_started(ORDER, 1), "")
    with pytest.raises(FrameError, match="AttemptStarted cannot be an order's first event"):
        apply(None, decode_frame(sealed.data, "an event"))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"event":1}', b"\xff"])
def test_what_is_not_a_published_event_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError, match="event o/1"):
        decode_frame(data, "o/1")


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
keys = st.text(string.ascii_letters + string.punctuation + " \t\n\r\x0b", max_size=8)
jsons = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(jsons, min_size=1, max_size=20))
def test_postgresql_gives_back_the_canonical_bytes_of_any_event(database_url: str, values: list[object]) -> None:
    execute(database_url, EMPTY)
    store = memory_store()
    for value in values:
        (first,) = appends(stream_id(), [[accepted()]])
        fill(store, [first, second(first.stream, first.events[0].hash, {"note": value})])
    assert project(database_url, store) == 2 * len(values)
    for order_id, version, payload in execute(
        database_url, "SELECT order_id, version, payload::text FROM order_events"
    ):
        (event,) = asyncio.run(store.read_stream(str(order_id), int(str(version)) - 1, 1))
        assert canonical(msgspec.json.decode(str(payload))) == event.data


def _started(order_id: str, seq: int) -> dict[str, Any]:
    return {
        "event": "routing",
        "status": "routing",
        "orderId": order_id,
        "seq": seq,
        "at": "2027-01-15T08:00:00.000000Z",
        "attempt": 1,
        "meta": {"type": "AttemptStarted", "schema": 1},
    }

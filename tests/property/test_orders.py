"""The laws of an order: whatever commands arrive in whatever state, the history stays a lifecycle."""

import random
from functools import reduce
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from app.dex.router import choose
from app.orders.codec import EVENT_TYPES, Origin, client_in, from_frame, to_frame
from app.orders.commands import EndSubmission, PlaceOrder, RetryDraw, RouteAttempt
from app.orders.decide import RETRY_DELAY_MS_MAX, decide
from app.orders.errors import UndefinedTransitionError, UnknownEventTypeError
from app.orders.events import (
    AttemptFailed,
    AttemptStarted,
    Event,
    OrderAccepted,
    OrderCancelled,
    OrderConfirmed,
    OrderExpired,
    OrderFailed,
    OrderRested,
    PriceProtectionTripped,
    Proof,
    Quote,
    RouteSelected,
    Side,
    SubmitIntentRecorded,
)
from app.orders.evolve import evolve
from app.orders.guards import WAITS
from app.orders.lifecycle import FAILURES, TERMINAL, phase, public_names
from app.orders.money import MAX_UNITS, format_units, max_in, min_out, parse_units
from app.orders.obligations import Obligation, Owed, Watching, obligations
from app.orders.state import (
    MAX_ATTEMPTS,
    Absent,
    CancelPending,
    Confirmed,
    Exhausted,
    Live,
    Quoted,
    Resting,
    Routing,
    State,
    Submitted,
    Terminal,
    Terms,
    Unsent,
    Waiting,
)
from app.orders.times import format_time, parse_time
from eventstore.canonical import chain_fault, seal
from tests.builders import EVERY_EVENT
from tests.clocks import START_US
from tests.moves import anything, move, play

MARKET = Terms(
    side="sell",
    base_asset="SOL",
    quote_asset="USDC",
    base_decimals=9,
    quote_decimals=6,
    amount=1,
    slippage_bps=50,
)
EARLY = RetryDraw(now_us=START_US, jitter_ppm=0, speed_ppm=0)

chances = st.randoms(use_true_random=False)
lengths = st.integers(1, 60)
instants = st.integers(0, 4_000_000_000_000_000)


def terms_of(states: list[State]) -> Terms:
    """What was ordered."""
    found: Terms = getattr(states[-1], "terms")  # noqa: B009 - only Absent has none
    return found


def test_random_lives_reach_every_state_and_every_event() -> None:
    reached: set[type[State]] = set()
    happened: set[type[Event]] = set()
    for seed in range(400):
        events, states = play(random.Random(seed), 60)
        reached |= {type(state) for state in states}
        happened |= {type(event) for event in events}
    assert happened == set(EVENT_TYPES.values())
    assert reached == set(State.__args__)


@given(chances, lengths)
def test_no_command_sequence_reaches_an_undefined_transition(chance: random.Random, moves: int) -> None:
    events, states = play(chance, moves)
    assert len(states) == len(events) + 1
    for state in states:
        reduce(evolve, decide(state, anything(state, chance)), state)


@given(chances, lengths)
def test_a_terminal_order_absorbs_every_command_and_takes_no_event(chance: random.Random, moves: int) -> None:
    _, states = play(chance, moves)
    if isinstance(states[-1], Terminal):
        assert [decide(states[-1], anything(states[-1], chance)) for _ in range(20)] == [()] * 20
        for event in EVERY_EVENT:
            with pytest.raises(UndefinedTransitionError):
                evolve(states[-1], event)


@given(chances, lengths)
def test_an_order_uses_at_most_three_attempts_up_one_after_the_other(chance: random.Random, moves: int) -> None:
    events, _ = play(chance, moves)
    used = 0
    for event in events:
        if isinstance(event, AttemptStarted):
            assert event.attempt == used + 1 <= MAX_ATTEMPTS
        if isinstance(event, AttemptFailed):
            used += 1
            assert event.attempt == used
            assert event.retry is None or event.retry.attempt == used + 1
            assert event.retry is None or FAILURES[event.error.code].passing


@given(chances, lengths)
def test_a_guard_that_lets_an_order_wait_ends_no_attempt_and_no_other_guard_does_so(
    chance: random.Random, moves: int
) -> None:
    events, states = play(chance, moves)
    for before, (event, after) in zip(states, pairwise(events), strict=False):
        if isinstance(event, PriceProtectionTripped):
            assert isinstance(after, OrderRested | AttemptFailed)
        if isinstance(after, OrderRested) and isinstance(before, Quoted):
            assert isinstance(event, PriceProtectionTripped)
            assert event.guard in WAITS


@given(chances, lengths)
def test_at_most_one_swap_is_on_its_way_and_each_ends_in_confirmation_or_proof(
    chance: random.Random, moves: int
) -> None:
    events, states = play(chance, moves)
    live: str | None = None
    for event, state in zip(events, states[1:], strict=True):
        match event:
            case SubmitIntentRecorded(tx_id=tx_id):
                assert live is None
                live = tx_id
            case AttemptFailed(proof=proof):
                assert (proof.tx_id if proof else None) == live
                live = None
            case OrderConfirmed(tx_id=tx_id):
                assert tx_id == live
                live = None
        assert (live is not None) == isinstance(state, Live)
        assert live is None or not isinstance(state, Terminal)


@given(chances, lengths)
def test_an_order_has_one_end_and_a_swap_only_if_that_is_its_confirmation(chance: random.Random, moves: int) -> None:
    events, states = play(chance, moves)
    ends = [index for index, event in enumerate(events) if public_names(event)[1] in TERMINAL]
    assert ends in ([], [len(events) - 1])
    confirmations = sum(isinstance(event, OrderConfirmed) for event in events)
    assert confirmations == isinstance(states[-1], Confirmed)


@given(chances, lengths)
def test_a_routes_limit_keeps_slippage_and_limit_price_and_no_retry_ratchets_it(
    chance: random.Random, moves: int
) -> None:
    events, states = play(chance, moves)
    limits: set[int] = set()
    for event in events:
        if not isinstance(event, RouteSelected):
            continue
        terms = terms_of(states)
        sell = terms.side == "sell"
        limit = parse_units((event.min_out if sell else event.max_in) or "", terms.quote_decimals)
        amount = parse_units(event.chosen.amount, terms.quote_decimals)
        assert (event.max_in if sell else event.min_out) is None
        assert not terms.is_worse(amount, limit)
        assert terms.floor is None or not terms.is_worse(limit, terms.floor)
        if not limits:
            assert not terms.is_worse(limit, (min_out if sell else max_in)(amount, terms.slippage_bps))
        limits.add(limit)
    assert len(limits) <= 1


@given(st.sampled_from(["buy", "sell"]), st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 10_000))
def test_a_later_route_keeps_the_limit_of_the_first_however_good_it_is(
    side: Side, anchor: int, better: int, slippage_bps: int
) -> None:
    amount = anchor + better if side == "sell" else max(1, anchor - better)
    state = Routing(terms=replace(MARKET, side=side, slippage_bps=slippage_bps), attempt=2, limit=anchor)
    quotes = (Quote(venue="raydium", amount=format_units(amount, 6), fee="0", impact_ppm=0),)
    selection = choose(side, {"raydium": amount})
    _, route = decide(state, RouteAttempt(slot=1, quotes=quotes, selection=selection, retry=EARLY))
    assert isinstance(route, RouteSelected)
    assert (route.min_out if side == "sell" else route.max_in) == format_units(anchor, 6)


@pytest.mark.parametrize(("left_us", "ends"), [(1, False), (0, True), (-1, True)])
def test_an_attempt_that_ends_at_the_orders_own_end_is_its_last(left_us: int, ends: bool) -> None:
    terms = replace(MARKET, expire_at=format_time(EARLY.now_us + left_us))
    state = Submitted(terms=terms, attempt=1, limit=1, venue="raydium", tx_id="t", message="", last_valid_height=1)
    proof = Proof(kind="expired", tx_id="t", slot=9, height=2, last_valid_height=1)
    failed, *more = decide(state, EndSubmission(proof=proof, retry=EARLY))
    assert isinstance(failed, AttemptFailed)
    assert (failed.retry is None) == ends
    assert [type(event) for event in more] == ([OrderExpired] if ends else [])


@given(chances, lengths)
def test_immediate_orders_never_wait_and_have_one_attempt(chance: random.Random, moves: int) -> None:
    events, states = play(chance, moves)
    if not events or terms_of(states).time_in_force == "GTC":
        return
    assert not any(isinstance(state, Resting | Waiting) for state in states)
    assert sum(isinstance(event, AttemptStarted) for event in events) <= 1
    assert not any(isinstance(event, OrderFailed | OrderExpired) for event in events)
    if any(isinstance(event, AttemptFailed) for event in events):
        assert isinstance(events[-1], OrderCancelled)


@given(chances, lengths)
def test_an_order_fails_only_when_no_attempt_could_mend_it(chance: random.Random, moves: int) -> None:
    events, _ = play(chance, moves)
    for last, event in pairwise(events):
        if isinstance(event, OrderFailed):
            assert isinstance(last, AttemptFailed)
            assert (last.retry, last.attempt, last.error) == (None, event.attempts, event.error)
            assert last.attempt == MAX_ATTEMPTS or not FAILURES[last.error.code].passing


@given(chances, lengths)
def test_an_order_expires_only_if_it_was_to_and_not_with_a_swap_on_its_way(chance: random.Random, moves: int) -> None:
    events, states = play(chance, moves)
    for before, event in zip(states, events, strict=False):
        if isinstance(event, OrderExpired):
            assert event.expire_at == terms_of(states).expire_at
            assert not isinstance(before, Live)


@given(chances, lengths)
def test_an_order_that_is_to_be_cancelled_never_starts_anything_anew(chance: random.Random, moves: int) -> None:
    events, states = play(chance, moves)
    for before, event in zip(states, events, strict=False):
        if isinstance(before, CancelPending) and isinstance(event, AttemptFailed):
            assert event.retry is None
            assert isinstance(states[-1], Exhausted) or type(events[-1]) is OrderCancelled


def owed(state: State) -> tuple[Owed, ...]:
    """What moves an order in ``state`` on."""
    expire = getattr(getattr(state, "terms", None), "expire_at", None)
    timer = () if expire is None else (Obligation("expire", parse_time(expire) // 1000),)
    match state:
        case Resting(trigger=trigger):
            return (Watching(trigger), *timer)
        case Waiting(due_at=due):
            return (Obligation("attempt", parse_time(due) // 1000), *timer)
        case Submitted(next_check_at=due) | CancelPending(submitted=Submitted(next_check_at=due)):
            return (Obligation("resolve", due and parse_time(due) // 1000),)  # type: ignore[arg-type]  # None or a number
        case Exhausted():
            return (Obligation("attempt"),)
        case _ if isinstance(state, Unsent):
            return (Obligation("attempt"), *timer)
        case _:
            return ()


@given(chances, lengths)
def test_an_open_order_owes_exactly_what_moves_it_on_and_an_ended_one_nothing(
    chance: random.Random, moves: int
) -> None:
    _, states = play(chance, moves)
    for state in states:
        assert obligations(state) == owed(state)
        assert bool(owed(state)) != isinstance(state, Absent | Terminal)


@given(chances, lengths)
def test_a_commit_never_ends_between_quotes_and_decision(chance: random.Random, moves: int) -> None:
    state: State = Absent()
    for _ in range(moves):
        state = reduce(evolve, decide(state, move(state, chance)), state)
        assert not isinstance(state, Quoted | Exhausted)


@given(chances, lengths)
def test_recorded_delays_lie_within_the_exponential_back_off(chance: random.Random, moves: int) -> None:
    events, _ = play(chance, moves)
    for event in events:
        if isinstance(event, AttemptFailed) and event.retry is not None:
            full_ms = min(RETRY_DELAY_MS_MAX, 500 * 2 ** (event.attempt - 1))
            assert 0 <= event.retry.delay_ms <= full_ms


@given(chances, lengths)
def test_the_status_after_an_event_is_terminal_exactly_when_the_state_is(chance: random.Random, moves: int) -> None:
    events, states = play(chance, moves)
    for event, state in zip(events, states[1:], strict=True):
        _, status = public_names(event)
        assert (status in TERMINAL) == isinstance(state, Terminal)
        assert phase(status) in {"PENDING", "PROCESSING", "COMPLETED", "FAILED"}


@given(chances, lengths)
def test_events_survive_their_frames_and_chain(chance: random.Random, moves: int) -> None:
    events, _ = play(chance, moves)
    prev = ""
    origin = Origin(actor="worker", client="user01", command="c0ffee")
    for seq, event in enumerate(events, start=1):
        frame = to_frame(event, order_id="o", seq=seq, at=format_time(seq), origin=origin)
        sealed = seal(frame, prev)
        assert from_frame(sealed.data) == event
        assert client_in(sealed.data) == "user01"
        assert chain_fault(sealed.data, prev) is None
        prev = sealed.hash


def test_the_bytes_of_an_event_do_not_depend_on_how_its_values_were_made() -> None:
    terms: dict[str, Any] = {"time_in_force": "".join(("G", "TC")), "max_impact_bps": int("1000"), "min_venues": 1}
    accepted = next(event for event in EVERY_EVENT if isinstance(event, OrderAccepted))
    spelled = replace(accepted, **terms)
    origin = Origin(actor="api", client=None, command="c0ffee")
    frames = [to_frame(event, order_id="o", seq=1, at=format_time(1), origin=origin) for event in (accepted, spelled)]
    assert frames[0] == frames[1]
    assert not frames[1].keys() & {"timeInForce", "maxImpactBps", "minVenues"}


def test_a_frame_of_a_newer_version_is_not_guessed_at() -> None:
    for meta in ({"type": "OrderTeleported", "schema": 1}, {"type": "AttemptStarted", "schema": 2}):
        with pytest.raises(UnknownEventTypeError):
            from_frame(msgspec.json.encode({"attempt": 1, "meta": meta}))


def test_every_event_type_is_registered_under_its_name() -> None:
    assert {kind.__name__ for kind in EVENT_TYPES.values()} == set(EVENT_TYPES)
    assert set(EVENT_TYPES.values()) == set(Event.__args__)


@given(instants)
def test_times_survive_their_text(us: int) -> None:
    assert parse_time(format_time(us)) == us


@given(st.integers(1, MAX_UNITS), st.integers(0, 9))
def test_a_placed_order_keeps_its_exact_amount(amount: int, decimals: int) -> None:
    command = PlaceOrder(
        side="sell",
        base_asset="SOL",
        quote_asset="USDC",
        base_decimals=decimals,
        quote_decimals=6,
        amount=amount,
        slippage_bps=0,
    )
    (accepted,) = decide(Absent(), command)
    assert terms_of([evolve(Absent(), accepted)]).amount == amount
    assert msgspec.to_builtins(accepted)["amount"] == format_units(amount, decimals)


def test_the_events_that_documents_are_checked_against_are_all_there_are() -> None:
    assert {type(event) for event in EVERY_EVENT} == set(EVENT_TYPES.values())

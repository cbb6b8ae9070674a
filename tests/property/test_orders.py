"""The laws of an order: whatever commands arrive in whatever state, the history stays a lifecycle."""

from functools import reduce

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.orders.codec import EVENT_TYPES, Origin, client_in, from_frame, to_frame
from app.orders.commands import (
    Command,
    ConfirmOrder,
    EndSubmission,
    PlaceOrder,
    PostponeResolve,
    RecordIntent,
    RetryDraw,
    RouteAttempt,
    Selection,
    StartAttempt,
)
from app.orders.decide import RETRY_DELAY_MS_MAX, decide
from app.orders.errors import UndefinedTransitionError, UnknownEventTypeError
from app.orders.events import AttemptFailed, AttemptStarted, Event, OrderFailed, Proof, Quote, Receipt
from app.orders.evolve import evolve
from app.orders.lifecycle import TERMINAL, phase, public_names
from app.orders.money import MAX_UNITS, format_units
from app.orders.obligations import obligations
from app.orders.state import MAX_ATTEMPTS, Absent, Confirmed, Exhausted, Failed, Quoted, State, Submitted
from app.orders.times import format_time, parse_time
from eventstore.canonical import chain_fault, seal
from tests.builders import EVERY_EVENT

TX_IDS = ("tx1", "tx2")

amounts = st.integers(1, MAX_UNITS)
instants = st.integers(0, 4_000_000_000_000_000)
draws = st.builds(
    RetryDraw, now_us=instants, jitter_ppm=st.integers(0, 1_000_000), speed_ppm=st.sampled_from([0, 1, 10**6, 10**9])
)
selections = st.builds(
    Selection,
    policy=st.just("best-net/1"),
    venue=st.sampled_from(["raydium", "meteora"]),
    amount=amounts,
    decision=st.just("0" * 16),
    runner_up=st.none() | st.just("meteora"),
    edge_bps=st.none() | st.integers(0, 10_000),
)
quotes = st.tuples(st.builds(Quote, venue=st.just("raydium"), status=st.just("error"), reason=st.just("down")))
receipts = st.builds(
    Receipt,
    venue=st.just("raydium"),
    amount_in=st.just("1"),
    amount_out=st.just("2"),
    fee=st.just("0"),
    network_fee=st.just("0.000005"),
    slot=st.integers(0, 10**9),
)
proofs = st.builds(
    Proof,
    kind=st.sampled_from(["expired", "failed_on_chain"]),
    tx_id=st.sampled_from(TX_IDS),
    slot=st.integers(0, 10**9),
    error=st.sampled_from([None, "ExceededSlippage", "ProgramError"]),
)
placements = st.builds(
    PlaceOrder,
    side=st.sampled_from(["buy", "sell"]),
    base_asset=st.just("SOL"),
    quote_asset=st.just("USDC"),
    base_decimals=st.integers(0, 9),
    quote_decimals=st.integers(0, 9),
    amount=amounts,
    slippage_bps=st.integers(0, 10_000),
)
commands: st.SearchStrategy[Command] = st.one_of(
    placements,
    st.builds(StartAttempt),
    st.builds(RouteAttempt, slot=st.integers(0, 10**9), quotes=quotes, selection=st.none() | selections, retry=draws),
    st.builds(
        RecordIntent,
        tx_id=st.sampled_from(TX_IDS),
        message=st.just("AA=="),
        last_valid_height=st.integers(0, 10**9),
    ),
    st.builds(ConfirmOrder, tx_id=st.sampled_from(TX_IDS), receipt=receipts),
    st.builds(EndSubmission, proof=proofs, retry=draws),
    st.builds(PostponeResolve, now_us=instants, speed_ppm=st.sampled_from([0, 10**6])),
)
histories = st.builds(lambda first, rest: [first, *rest], placements, st.lists(commands, max_size=40))


def play(history: list[Command]) -> tuple[list[Event], list[State]]:
    """All events of a history, and the state after each."""
    events: list[Event] = []
    states: list[State] = [Absent()]
    for command in history:
        for event in decide(states[-1], command):
            events.append(event)
            states.append(evolve(states[-1], event))
    return events, states


@given(histories)
def test_no_command_sequence_reaches_an_undefined_transition(history: list[Command]) -> None:
    events, states = play(history)
    assert len(states) == len(events) + 1


@given(histories, st.lists(commands, min_size=1, max_size=5))
def test_a_terminal_order_absorbs_every_command(history: list[Command], more: list[Command]) -> None:
    _, states = play(history)
    if isinstance(states[-1], Confirmed | Failed):
        assert [decide(states[-1], command) for command in more] == [()] * len(more)


@given(histories, st.data())
def test_a_terminal_order_takes_no_event(history: list[Command], data: st.DataObject) -> None:
    events, states = play(history)
    if isinstance(states[-1], Confirmed | Failed):
        with pytest.raises(UndefinedTransitionError):
            evolve(states[-1], data.draw(st.sampled_from(events)))


@given(histories)
def test_an_order_starts_at_most_three_attempts_and_numbers_them(history: list[Command]) -> None:
    events, _ = play(history)
    attempts = [event.attempt for event in events if isinstance(event, AttemptStarted)]
    assert attempts == list(range(1, len(attempts) + 1))
    assert len(attempts) <= MAX_ATTEMPTS


@given(histories)
def test_failed_is_published_once_after_the_last_attempt_failed(history: list[Command]) -> None:
    events, _ = play(history)
    failures = [index for index, event in enumerate(events) if isinstance(event, OrderFailed)]
    assert failures in ([], [len(events) - 1])
    for index in failures:
        last = events[index - 1]
        assert isinstance(last, AttemptFailed)
        assert (last.retry, last.attempt) == (None, MAX_ATTEMPTS)


@given(histories)
def test_every_submitted_swap_ends_in_confirmation_or_proof(history: list[Command]) -> None:
    events, states = play(history)
    for before, event in zip(states, events, strict=False):
        if isinstance(before, Submitted) and isinstance(event, AttemptFailed):
            assert event.proof is not None
            assert event.proof.tx_id == before.tx_id


@given(histories)
def test_the_slippage_limit_is_anchored_to_the_first_route(history: list[Command]) -> None:
    _, states = play(history)
    limits = {limit for state in states if (limit := getattr(state, "limit", None)) is not None}
    assert len(limits) <= 1


@given(histories)
def test_an_order_owes_exactly_one_step_until_it_ends(history: list[Command]) -> None:
    _, states = play(history)
    for state in states:
        ended = isinstance(state, Absent | Confirmed | Failed)
        assert len(obligations(state)) == (0 if ended else 1)


@given(histories)
def test_a_commit_never_ends_between_quotes_and_decision(history: list[Command]) -> None:
    state: State = Absent()
    for command in history:
        state = reduce(evolve, decide(state, command), state)
        assert not isinstance(state, Quoted | Exhausted)


@given(histories)
def test_recorded_delays_lie_within_the_exponential_back_off(history: list[Command]) -> None:
    events, _ = play(history)
    for event in events:
        if isinstance(event, AttemptFailed) and event.retry is not None:
            full_ms = min(RETRY_DELAY_MS_MAX, 500 * 2 ** (event.attempt - 1))
            assert 0 <= event.retry.delay_ms <= full_ms


@given(histories)
def test_the_status_after_an_event_is_terminal_exactly_when_the_state_is(history: list[Command]) -> None:
    events, states = play(history)
    for event, state in zip(events, states[1:], strict=True):
        _, status = public_names(event)
        assert (status in TERMINAL) == isinstance(state, Confirmed | Failed)
        assert phase(status) in {"PENDING", "PROCESSING", "COMPLETED", "FAILED"}


@given(histories)
def test_events_survive_their_frames_and_chain(history: list[Command]) -> None:
    events, _ = play(history)
    prev = ""
    origin = Origin(actor="worker", client="user01", command="c0ffee")
    for seq, event in enumerate(events, start=1):
        frame = to_frame(event, order_id="o", seq=seq, at=format_time(seq), origin=origin)
        sealed = seal(frame, prev)
        assert from_frame(sealed.data) == event
        assert client_in(sealed.data) == "user01"
        assert chain_fault(sealed.data, prev) is None
        prev = sealed.hash


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


@given(placements)
def test_a_placed_order_keeps_its_exact_amount(command: PlaceOrder) -> None:
    (accepted,) = decide(Absent(), command)
    state = evolve(Absent(), accepted)
    assert getattr(state, "terms").amount == command.amount  # noqa: B009 - the union has no common attribute
    assert msgspec.to_builtins(accepted)["amount"] == format_units(command.amount, command.base_decimals)


def test_the_events_that_documents_are_checked_against_are_all_there_are() -> None:
    assert {type(event) for event in EVERY_EVENT} == set(EVENT_TYPES.values())

"""The submission protocol keeps its promises in every order of events, and the engine follows that protocol."""

from itertools import combinations
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.orders.state import MAX_ATTEMPTS, Confirmed, Failed
from tests.model.checker import Breach, check, follow
from tests.model.protocol import STEPS, Move, Protocol
from tests.model.recording import VALIDITY, Fate, Script, live

ENGINE: Final = Protocol(attempts=MAX_ATTEMPTS)

POINTS: Final = ("K2", "K3", "K4", "K5", "K6", "K8", "K10", "K12")
"""The crash points that execution passes."""


def swapped(first: str, second: str) -> Protocol:
    """The protocol with two of its steps in each other's place."""
    places = {first: second, second: first}
    return ENGINE._replace(steps=tuple(places.get(step, step) for step in STEPS))


def moved(step: str, *, before: str) -> Protocol:
    """The protocol with a step earlier than it should be."""
    others = [other for other in STEPS if other != step]
    place = others.index(before)
    return Protocol(steps=(*others[:place], step, *others[place:]))


def without(step: str) -> Protocol:
    return Protocol(steps=tuple(other for other in STEPS if other != step))


WEAKENED: Final[dict[str, tuple[Protocol, Breach]]] = {
    "the swap is sent before its intent is recorded": (moved("send", before="append_intent"), "double swap"),
    "an undecided look is followed by a new signature": (Protocol(undecided="sign_anew"), "double swap"),
    "an undecided look is a failure": (Protocol(undecided="fail"), "failed, yet executed"),
    "the status is read before the height": (moved("read_status", before="read_height"), "double swap"),
    "appends are not compared with the log": (Protocol(compares=False), "double swap"),
    "the intent is not durable before it is sent": (moved("send", before="make_durable"), "double swap"),
    "everything is read at processed": (
        Protocol(height_at="processed", status_at="processed"),
        "confirmed, yet reverted",
    ),
    "the height is read at processed, the status at confirmed": (Protocol(height_at="processed"), "double swap"),
    "the height is never read": (without("read_height"), "never ends"),
}

LIVES: Final = {
    "it lands": Script((Fate(),)),
    "it fails on chain, then lands": Script((Fate("refused"), Fate())),
    "it expires, then lands": Script((Fate("expired"), Fate())),
    "it is lost, then sent again, and lands": Script((Fate(looks=2, lost=1),)),
    "three attempts fail": Script((Fate("refused"), Fate("expired"), Fate("refused"))),
}
RESOLVED_BY_ANOTHER: Final = {
    "the worker dies after the intent, another one resolves it": Script((Fate(),), frozenset({("K8", 1)})),
    "the worker dies when its swap has landed, another one resolves it": Script((Fate(),), frozenset({("K12", 1)})),
    "the task ends undecided, another one resolves it": Script((Fate(looks=5),), task_ms=12),
}


def test_the_protocol_breaks_no_promise_in_any_order_of_events() -> None:
    checked = check(Protocol())
    assert checked.breach is None, checked
    assert checked.endings == {"confirmed", "failed"}


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [Protocol(validity=2), Protocol(attempts=3)], ids=["longer", "three attempts"])
def test_the_protocol_breaks_no_promise_with_more_blocks_or_attempts(protocol: Protocol) -> None:
    checked = check(protocol)
    assert checked.breach is None, checked


@pytest.mark.parametrize("weakness", WEAKENED)
def test_a_weakened_protocol_is_found_out(weakness: str) -> None:
    protocol, breach = WEAKENED[weakness]
    checked = check(protocol)
    assert checked.breach == breach, f"{weakness}: {checked}"
    assert checked.trace


@pytest.mark.parametrize("name", LIVES)
def test_the_engine_does_what_the_protocol_says_step_by_step(name: str) -> None:
    lived = live(LIVES[name])
    assert follow(ENGINE, lived.moves) is None, "\n".join(map(str, lived.moves))
    ended, executed = (Failed, 0) if name == "three attempts fail" else (Confirmed, 1)
    assert isinstance(lived.order.state, ended)
    assert lived.executed == executed


@pytest.mark.parametrize("name", RESOLVED_BY_ANOTHER)
def test_another_worker_resolves_as_the_protocol_says(name: str) -> None:
    lived = live(RESOLVED_BY_ANOTHER[name])
    assert follow(ENGINE, lived.moves) is None, "\n".join(map(str, lived.moves))
    assert Move("worker 1", "let_go") in lived.moves
    assert lived.moves[-1] == Move("worker 2", "append_outcome", "confirmed")
    assert lived.executed == 1


@pytest.mark.parametrize(("first", "second"), list(combinations(STEPS, 2)))
def test_the_engine_does_not_follow_the_protocol_with_two_steps_exchanged(first: str, second: str) -> None:
    assert follow(swapped(first, second), live(LIVES["it lands"]).moves) is not None


@given(
    st.builds(
        Script,
        fates=st.lists(
            st.builds(
                Fate,
                ends=st.sampled_from(["executed", "refused", "expired"]),
                looks=st.integers(1, VALIDITY),
                lost=st.integers(0, 2),
                errors=st.integers(0, 2),
            ),
            min_size=1,
            max_size=MAX_ATTEMPTS,
        ).map(tuple),
        crashes=st.frozensets(st.tuples(st.sampled_from(POINTS), st.integers(1, 3)), max_size=6),
        task_ms=st.sampled_from([12, 25, 5_000]),
    )
)
@settings(max_examples=20)
def test_whatever_the_chain_does_and_wherever_workers_die_the_engine_follows_the_protocol(script: Script) -> None:
    lived = live(script)
    assert follow(ENGINE, lived.moves) is None, "\n".join(map(str, lived.moves))
    assert lived.executed == isinstance(lived.order.state, Confirmed)

"""An exhaustive breadth-first check of the model: no reachable state breaks a promise, or the shortest way to one."""

from collections import deque
from collections.abc import Iterable
from functools import cache
from typing import Literal, NamedTuple

from tests.model.protocol import READINGS, Move, Protocol, State, chain_moves, is_closed, moves, status_of

Breach = Literal["double swap", "failed, yet executed", "confirmed, yet reverted", "never ends"]


class Checked(NamedTuple):
    """What a check found."""

    states: int
    """States that were visited."""
    endings: frozenset[str]
    """Kinds of the events that ended the order in any of them."""
    breach: Breach | None = None
    trace: tuple[Move, ...] = ()
    """A shortest way to the breach."""

    def __str__(self) -> str:
        lines = [f"{number:3} {move}" for number, move in enumerate(self.trace, 1)]
        return "\n".join([f"{self.breach or 'no breach'} ({self.states} states)", *lines])


def check(protocol: Protocol) -> Checked:
    """Visit every state that ``protocol`` can reach, or stop at the first that breaks a promise."""
    start = State()
    before: dict[State, State | None] = {start: None}
    sources: dict[State, list[State]] = {start: []}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        breach = _breach(state)
        if breach is not None:
            return Checked(len(before), _endings(before), breach, _trace(protocol, before, state))
        for _, after in moves(protocol, state):
            found = _canonical(after)
            if found not in before:
                before[found] = state
                sources[found] = []
                queue.append(found)
            sources[found].append(state)
    endless = _endless(sources)
    if endless is not None:
        return Checked(len(before), _endings(before), "never ends", _trace(protocol, before, endless))
    return Checked(len(before), _endings(before))


def follow(protocol: Protocol, observed: Iterable[Move]) -> Move | None:
    """Return the first of the workers' ``observed`` moves that the model cannot make there; None: it can make all.

    Before each reading the chain does whatever it can do. A result left empty agrees with every result.
    """
    states = {State()}
    for seen in observed:
        if seen.step in READINGS:
            states = _reachable_by_chain(states)
        states = {
            after
            for state in states
            for move, after in moves(protocol, state)
            if move[:2] == seen[:2] and seen.result in ("", move.result)
        }
        if not states:
            return seen
    return None


def _canonical(state: State) -> State:
    # The workers are alike: states that differ in who is who are one.
    first, second = state.workers
    return state if first <= second else state._replace(workers=(second, first))


def _breach(state: State) -> Breach | None:
    if state.executed > 1:
        return "double swap"
    for event in state.log:
        if event.kind == "failed" and state.executed:
            return "failed, yet executed"
        if event.kind == "confirmed" and status_of(state, event.signature, "processed") != "executed":
            return "confirmed, yet reverted"
    return None


def _endings(states: Iterable[State]) -> frozenset[str]:
    return frozenset(state.log[-1].kind for state in states if is_closed(state.log))


def _endless(sources: dict[State, list[State]]) -> State | None:
    """Return a state, as near to the start as any, from which no way leads to an ended order."""
    ending = {state for state in sources if is_closed(state.log)}
    queue = list(ending)
    while queue:
        for source in sources[queue.pop()]:
            if source not in ending:
                ending.add(source)
                queue.append(source)
    return next((state for state in sources if state not in ending), None)


def _trace(protocol: Protocol, before: dict[State, State | None], last: State) -> tuple[Move, ...]:
    path = [last]
    while (previous := before[path[-1]]) is not None:
        path.append(previous)
    state, trace = State(), []
    for target in reversed(path[:-1]):
        move, state = next(step for step in moves(protocol, state) if _canonical(step[1]) == target)
        trace.append(move)
    return tuple(trace)


def _reachable_by_chain(states: set[State]) -> set[State]:
    found, queue = set(states), list(states)
    while queue:
        new = _by_chain(queue.pop()) - found
        found |= new
        queue += new
    return found


@cache
def _by_chain(state: State) -> frozenset[State]:
    return frozenset(after for _, after in chain_moves(state))

"""A model of one order's submission: two workers, the order's log, the network and the chain, as states and moves."""

from collections.abc import Callable, Iterator
from typing import Final, Literal, NamedTuple

Commitment = Literal["processed", "confirmed"]
Kind = Literal["intent", "ended", "failed", "confirmed"]

STEPS: Final = ("sign", "append_intent", "make_durable", "send", "read_height", "read_status", "append_outcome")
"""What a worker does for an attempt, in this order; whatever else it does is a part of this, in the same order."""

CONFIRMATION_BLOCKS: Final = 2
"""Most blocks that are processed and not yet confirmed: these a fork may revert."""

READINGS: Final = frozenset({"read_height", "read_status"})

_LOOK: Final = READINGS | {"append_outcome"}
_DEAD, _EXECUTED, _REFUSED = -1, -2, -3


class Protocol(NamedTuple):
    """What the workers do; the defaults are the protocol of ``app.execution.submission``."""

    steps: tuple[str, ...] = STEPS
    attempts: int = 2
    validity: int = 1
    """Blocks after the one that a signature names in which its swap can land."""
    compares: bool = True
    """Whether the log refuses a worker that does not know all of it."""
    height_at: Commitment = "confirmed"
    status_at: Commitment = "confirmed"
    undecided: Literal["look_again", "sign_anew", "fail"] = "look_again"
    """What follows a look that found neither the swap nor its expiry."""

    def only(self, kept: frozenset[str]) -> tuple[str, ...]:
        """Return those of the steps that are ``kept``, in the protocol's order."""
        return tuple(step for step in self.steps if step in kept)

    @property
    def takeover(self) -> tuple[str, ...]:
        """The steps of a worker that finds an intent: it looks before it sends."""
        return self.only(_LOOK | {"make_durable"})

    @property
    def look(self) -> tuple[str, ...]:
        """The steps after an undecided look."""
        return self.only(_LOOK)

    @property
    def resend(self) -> tuple[str, ...]:
        """The steps after an undecided look, when the same bytes are sent again."""
        return self.only(_LOOK | {"send"})


class Signature(NamedTuple):
    """A signed swap: its attempt and the blocks until its expiry, which tell from which block it was signed.

    After its expiry ``left`` is negative and says what became of it for good.
    """

    attempt: int
    left: int


UNSIGNED: Final = Signature(0, _DEAD)


class Event(NamedTuple):
    """An event of the order; intents and confirmations name a signature."""

    kind: Kind
    signature: Signature = UNSIGNED


Log = tuple[Event, ...]


class Worker(NamedTuple):
    """A worker's memory, lost when it dies."""

    plan: tuple[str, ...] = ()
    """The steps before it, unless a look is undecided; empty while it has no task."""
    known: Log = ()
    signature: Signature = UNSIGNED
    past: bool = False
    """Whether the height that it read is past the signature's last valid height."""
    status: str = ""


IDLE: Final = Worker()


class Packet(NamedTuple):
    """Signed bytes that were sent, until they expire."""

    signature: Signature
    fate: Literal["under_way", "executed", "refused"] = "under_way"
    height: int = 0
    """Of the block it is in, above the last confirmed one; 0: that block is confirmed."""


class State(NamedTuple):
    """Everything, at one moment; heights count from the last confirmed block."""

    log: Log = ()
    durable: int = 0
    """Events that a crash of the store leaves."""
    workers: tuple[Worker, ...] = (IDLE, IDLE)
    processed: int = 0
    """Height of the last processed block."""
    packets: tuple[Packet, ...] = ()
    executed: int = 0
    """Swaps in confirmed blocks."""


class Move(NamedTuple):
    """Something that happens: who, what, and what came of it."""

    actor: str
    step: str
    result: str = ""

    def __str__(self) -> str:
        return f"{self.actor}: {self.step}" + (f" -> {self.result}" if self.result else "")


Moves = Iterator[tuple[Move, State]]


def is_closed(log: Log) -> bool:
    """Whether the order has ended."""
    return any(event.kind in ("failed", "confirmed") for event in log)


def moves(protocol: Protocol, state: State) -> Moves:
    """Yield everything that can happen in ``state``, with the state after it."""
    for number, worker in enumerate(state.workers):
        for step, result, after, changed in _worker_moves(protocol, state, worker):
            workers = (*state.workers[:number], changed, *state.workers[number + 1 :])
            yield Move(f"worker {number + 1}", step, result), after._replace(workers=workers)
    if len(state.log) > state.durable:
        yield Move("store", "crash"), state._replace(log=state.log[: state.durable])
    yield from chain_moves(state)


WorkerMoves = Iterator[tuple[str, str, State, Worker]]


def _worker_moves(protocol: Protocol, state: State, worker: Worker) -> WorkerMoves:
    if not worker.plan:
        if not is_closed(state.log):
            yield "take", "", state, _taken(protocol, state.log)
        return
    yield "let_go", "", state, IDLE
    step = worker.plan[0]
    result, after, changed = _STEPS[step](protocol, state, worker._replace(plan=worker.plan[1:]))
    for plan in _plans(protocol, changed):
        yield step, result, after, changed._replace(plan=plan) if plan else IDLE


def _taken(protocol: Protocol, log: Log) -> Worker:
    if log and log[-1].kind == "intent":
        return Worker(protocol.takeover, log, log[-1].signature)
    return Worker(protocol.steps, log)


def _plans(protocol: Protocol, worker: Worker) -> tuple[tuple[str, ...], ...]:
    if worker.plan[:1] != ("append_outcome",) or _verdict(protocol, worker):
        return (worker.plan,)
    return (protocol.look, protocol.resend)


def _verdict(protocol: Protocol, worker: Worker) -> Kind | None:
    last = worker.signature.attempt >= protocol.attempts
    if worker.status == "executed":
        return "confirmed"
    if worker.status == "refused" or worker.past:
        return "failed" if last else "ended"
    if protocol.undecided == "fail":
        return "failed"
    return "ended" if protocol.undecided == "sign_anew" and not last else None


Step = Callable[[Protocol, State, Worker], tuple[str, State, Worker]]


def _sign(protocol: Protocol, state: State, worker: Worker) -> tuple[str, State, Worker]:
    attempt = 1 + sum(event.kind == "intent" for event in worker.known)
    return "", state, worker._replace(signature=Signature(attempt, protocol.validity))


def _append(protocol: Protocol, state: State, worker: Worker, event: Event) -> tuple[str, State, Worker]:
    if protocol.compares and state.log != worker.known:
        return "conflict", state, IDLE
    log = (*state.log, event)
    return event.kind, state._replace(log=log), worker._replace(known=log)


def _append_intent(protocol: Protocol, state: State, worker: Worker) -> tuple[str, State, Worker]:
    return _append(protocol, state, worker, Event("intent", worker.signature))


def _make_durable(protocol: Protocol, state: State, worker: Worker) -> tuple[str, State, Worker]:
    if protocol.compares and state.log[: len(worker.known)] != worker.known:
        return "conflict", state, IDLE
    kept = min(len(worker.known), len(state.log))
    return "", state._replace(durable=max(state.durable, kept)), worker


def _send(protocol: Protocol, state: State, worker: Worker) -> tuple[str, State, Worker]:
    known = any(packet.signature == worker.signature for packet in state.packets)
    if known or worker.signature.left < 0:
        return "", state, worker
    return "", state._replace(packets=tuple(sorted((*state.packets, Packet(worker.signature))))), worker


def _read_height(protocol: Protocol, state: State, worker: Worker) -> tuple[str, State, Worker]:
    height = state.processed if protocol.height_at == "processed" else 0
    past = height > worker.signature.left
    return "past" if past else "valid", state, worker._replace(past=past)


def _read_status(protocol: Protocol, state: State, worker: Worker) -> tuple[str, State, Worker]:
    status = status_of(state, worker.signature, protocol.status_at)
    return status, state, worker._replace(status=status)


def _append_outcome(protocol: Protocol, state: State, worker: Worker) -> tuple[str, State, Worker]:
    kind = _verdict(protocol, worker)
    if kind is None:
        return "undecided", state, IDLE
    signature = worker.signature if kind == "confirmed" else UNSIGNED
    return _append(protocol, state, worker, Event(kind, signature))


_STEPS: Final[dict[str, Step]] = {
    "sign": _sign,
    "append_intent": _append_intent,
    "make_durable": _make_durable,
    "send": _send,
    "read_height": _read_height,
    "read_status": _read_status,
    "append_outcome": _append_outcome,
}


def status_of(state: State, signature: Signature, commitment: Commitment) -> str:
    """Return ``executed``, ``refused`` or ``absent``, as the chain shows it at ``commitment``."""
    if signature.left < 0:
        return {_DEAD: "absent", _EXECUTED: "executed", _REFUSED: "refused"}[signature.left]
    for packet in state.packets:
        if packet.signature == signature and packet.fate != "under_way":
            return packet.fate if commitment == "processed" or not packet.height else "absent"
    return "absent"


def chain_moves(state: State) -> Moves:
    """Yield what the network and the chain can do by themselves."""
    if state.processed < CONFIRMATION_BLOCKS:
        yield Move("chain", "process_block"), state._replace(processed=state.processed + 1)
    if state.processed:
        yield Move("chain", "confirm_block"), _confirmed(state)
        yield Move("chain", "fork"), _forked(state)
    for number, packet in enumerate(state.packets):
        if packet.fate != "under_way":
            continue
        others = (*state.packets[:number], *state.packets[number + 1 :])
        yield Move("network", "lose", f"attempt {packet.signature.attempt}"), state._replace(packets=others)
        if 0 < state.processed <= packet.signature.left:
            for landed in (
                Packet(packet.signature, "executed", state.processed),
                Packet(packet.signature, "refused", state.processed),
            ):
                move = Move("chain", "land", f"attempt {packet.signature.attempt} {landed.fate}")
                yield move, state._replace(packets=tuple(sorted((*others, landed))))


def _forked(state: State) -> State:
    packets = (packet if not packet.height else Packet(packet.signature) for packet in state.packets)
    return state._replace(processed=0, packets=tuple(sorted(packets)))


def _confirmed(state: State) -> State:
    """Return the state in which one more block is confirmed: everything is one block older."""
    executed = sum(packet.height == 1 and packet.fate == "executed" for packet in state.packets)
    ends = {
        packet.signature: {"under_way": _DEAD, "executed": _EXECUTED, "refused": _REFUSED}[packet.fate]
        for packet in state.packets
    }

    def older(signature: Signature) -> Signature:
        attempt, left = signature
        if left < 0:
            return signature
        return Signature(attempt, left - 1 if left else ends.get(signature, _DEAD))

    def aged(log: Log) -> Log:
        return tuple(Event(event.kind, older(event.signature)) for event in log)

    return State(
        log=aged(state.log),
        durable=state.durable,
        workers=tuple(
            worker._replace(known=aged(worker.known), signature=older(worker.signature)) if worker.plan else worker
            for worker in state.workers
        ),
        processed=state.processed - 1,
        packets=tuple(
            Packet(older(packet.signature), packet.fate, max(0, packet.height - 1))
            for packet in state.packets
            if packet.signature.left
        ),
        executed=state.executed + executed,
    )

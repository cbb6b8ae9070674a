"""Builders whose defaults fit together, so that each value a test sets matters to it."""

from eventstore.canonical import SealedEvent, seal
from eventstore.ids import new_stream_id, new_ulid
from eventstore.store import Append, IdempotencyKey, IndexEntry

_counter = iter(range(1, 1 << 60))


def stream_id(owner: str = "owner", partitions: int = 4, number: int | None = None) -> str:
    """A new stream id, unique in this process; the same for the same ``number``."""
    entropy = (next(_counter) if number is None else number).to_bytes(10, "big")
    return new_stream_id(new_ulid(1_800_000_000_000, entropy), owner, partitions)


def events(count: int = 1, prev: str = "", first: int = 1) -> tuple[SealedEvent, ...]:
    """``count`` chained events, numbered from ``first``."""
    sealed: list[SealedEvent] = []
    for number in range(first, first + count):
        frame = {"seq": number, "meta": {"type": "Counted", "schema": 1}}
        sealed.append(seal(frame, prev))
        prev = sealed[-1].hash
    return tuple(sealed)


def first_append(stream: str, count: int = 1, commit_id: str = "c1") -> Append:
    """The append that creates ``stream``."""
    return Append(stream=stream, expected_version=0, expected_hash="", commit_id=commit_id, events=events(count))


def keyed(stream: str, key: IdempotencyKey, commit_id: str) -> Append:
    """The append that creates ``stream`` for a request with an idempotency key."""
    return Append(
        stream=stream,
        expected_version=0,
        expected_hash="",
        commit_id=commit_id,
        events=events(1),
        idempotency=key,
    )


def with_task(stream: str) -> Append:
    """The append that creates ``stream`` with a task."""
    return Append(
        stream=stream,
        expected_version=0,
        expected_hash="",
        commit_id="c1",
        events=events(1),
        add_task="attempt",
    )


def with_timer(stream: str, due_ms: int) -> Append:
    """The append that creates ``stream`` with a timer."""
    return Append(
        stream=stream,
        expected_version=0,
        expected_hash="",
        commit_id="c1",
        events=events(1),
        set_entries=(IndexEntry("due", f"resolve {stream}", due_ms),),
    )

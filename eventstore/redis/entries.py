"""Commits as arguments of the append script, and entries of the server as what they mean."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from eventstore.errors import DamagedEntryError
from eventstore.hot import Restored
from eventstore.ids import created_ms, numbers_of
from eventstore.store import (
    DIRECT_MAX,
    NEW_STREAM_SECONDS_MAX,
    WAITING,
    Append,
    IdempotencyKey,
    IndexEntry,
    StoredCommit,
    StoredEvent,
    Task,
)

LANES: Final = "lanes"
"""Last part of the key of the lanes' record."""
_UNQUEUED: Final = ("", "")


def append_arguments(prefix: str, epoch: int, fixed: str, commit: Append) -> tuple[list[str], list[Any]]:
    """Return the keys and arguments of ``append.lua``."""
    indexes = _indexes(commit.set_entries, commit.clear_entries)
    record = commit.idempotency
    args: list[Any] = [epoch, commit.expected_version, commit.expected_hash, commit.commit_id, commit.stream]
    args += [commit.add_task or "", commit.finish_task.id if commit.finish_task else ""]
    args += [_field(record), record.fingerprint] if record else ["", ""]
    args += [len(commit.events), len(commit.set_entries)]
    begun_ms = created_ms(commit.stream) if commit.expected_version == 0 else 0
    args += [fixed, begun_ms, NEW_STREAM_SECONDS_MAX * 1000]
    queue = _queue_arguments(commit)
    args += [*queue, DIRECT_MAX]
    for event in commit.events:
        args += [event.hash, event.data]
    keys = _keys(prefix, commit.stream, indexes)
    if queue != _UNQUEUED:
        keys += [f"{prefix}:{WAITING}", f"{prefix}:{LANES}"]
    return keys, args + _entry_arguments(indexes, commit.set_entries, commit.clear_entries)


def _queue_arguments(commit: Append) -> tuple[int | str, str]:
    """Return the most unfinished tasks of a new stream's partition and the field of its lane; "" for none."""
    if commit.expected_version > 0 or (commit.queue_max is None and commit.lane is None):
        return _UNQUEUED
    queue_max = "" if commit.queue_max is None else commit.queue_max
    # No lane's field is that of the turn that was admitted last.
    return queue_max, "" if commit.lane is None or commit.add_task is None else f":{commit.lane}"


def restore_arguments(prefix: str, piece: Restored) -> tuple[list[str], list[Any]]:
    """Return the keys and, but for the first one, the arguments of ``restore.lua``."""
    duties, entry = piece.duties, piece.entry
    indexes = _indexes(duties.set_entries, duties.clear_entries)
    args: list[Any] = [piece.prev]
    if entry is None:
        args += ["", piece.stream, "", "", "", "", 0]
    else:
        args += [entry.end.entry_id, entry.stream, entry.version, entry.commit_id, entry.recorded_us]
        args += ["".join(entry.anchors), len(entry.events)]
    record = duties.idempotency
    args += [len(piece.events), duties.add_task or ""]
    args += [_field(record), f"{piece.stream} {record.fingerprint}"] if record else ["", ""]
    args += [len(duties.set_entries), b"\n".join(entry.events) if entry else ""]
    for event in piece.events:
        args += [f"{event.epoch}-{event.version}", event.commit_id, event.hash, event.position, event.data]
    return _keys(prefix, piece.stream, indexes), args + _entry_arguments(
        indexes, duties.set_entries, duties.clear_entries
    )


def _indexes(sets: Sequence[IndexEntry], clears: Sequence[tuple[str, str]]) -> dict[str, int]:
    names = [*(entry.index for entry in sets), *(index for index, _ in clears)]
    return {name: number for number, name in enumerate(dict.fromkeys(names), start=1)}


def _keys(prefix: str, stream: str, indexes: Iterable[str]) -> list[str]:
    fixed = ("meta", f"stream:{stream}", "log", "tasks", "idempotency")
    return [f"{prefix}:{name}" for name in (*fixed, *indexes)]


def _entry_arguments(
    indexes: dict[str, int], sets: Sequence[IndexEntry], clears: Sequence[tuple[str, str]]
) -> list[Any]:
    args: list[Any] = []
    for entry in sets:
        args += [indexes[entry.index], entry.score, entry.member]
    for index, member in clears:
        args += [indexes[index], member]
    return args


def _field(record: IdempotencyKey) -> str:
    return f"{record.scope}\0{record.key}"


def fields_of(flat: Any) -> dict[bytes, Any]:
    if isinstance(flat, dict):
        return {name if isinstance(name, bytes) else name.encode(): value for name, value in flat.items()}
    return dict(zip(flat[::2], flat[1::2], strict=True))


@contextmanager
def _reading(entry_id: bytes) -> Iterator[None]:
    try:
        yield
    except (KeyError, ValueError) as error:
        raise DamagedEntryError(entry_id.decode(), error) from error


def stored_event(entry: tuple[bytes, Any]) -> StoredEvent:
    with _reading(entry[0]):
        epoch, version = numbers_of(entry[0])
        fields = fields_of(entry[1])
        return StoredEvent(
            version=version,
            epoch=epoch,
            position=int(fields[b"position"]),
            commit_id=fields[b"commit"].decode(),
            hash=fields[b"hash"].decode(),
            data=fields[b"event"],
        )


def stored_commit(number: int, entry: tuple[bytes, Any]) -> StoredCommit:
    with _reading(entry[0]):
        epoch, position = numbers_of(entry[0])
        fields = fields_of(entry[1])
        anchors = fields[b"anchors"].decode()
        return StoredCommit(
            partition=number,
            epoch=epoch,
            position=position,
            stream=fields[b"stream"].decode(),
            version=int(fields[b"version"]),
            commit_id=fields[b"commit"].decode(),
            recorded_us=int(fields[b"recorded"]),
            events=tuple(fields[b"events"].split(b"\n")),
            anchors=tuple(anchors[start : start + 8] for start in range(0, len(anchors), 8)),
        )


def task_of(number: int, entry: tuple[bytes, Any]) -> Task:
    with _reading(entry[0]):
        fields = fields_of(entry[1])
        return Task(fields[b"stream"].decode(), fields[b"kind"].decode(), number, entry[0].decode())

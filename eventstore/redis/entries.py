"""Commits as arguments of the append script, and entries of the server as what they mean."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from eventstore.errors import DamagedEntryError
from eventstore.ids import LogPosition
from eventstore.store import Append, StoredCommit, StoredEvent, Task


def append_arguments(prefix: str, epoch: int, commit: Append) -> tuple[list[str], list[Any]]:
    names = [entry.index for entry in commit.set_entries] + [index for index, _ in commit.clear_entries]
    indexes = {name: number for number, name in enumerate(dict.fromkeys(names), start=1)}
    keys = [f"{prefix}:meta", f"{prefix}:stream:{commit.stream}", f"{prefix}:log", f"{prefix}:tasks"]
    keys += [f"{prefix}:idempotency", *(f"{prefix}:{name}" for name in indexes)]
    record = commit.idempotency
    args: list[Any] = [epoch, commit.expected_version, commit.expected_hash, commit.commit_id, commit.stream]
    args += [commit.add_task or "", commit.finish_task.id if commit.finish_task else ""]
    args += [f"{record.scope}\0{record.key}", record.fingerprint] if record else ["", ""]
    args += [len(commit.events), len(commit.set_entries)]
    for event in commit.events:
        args += [event.hash, event.data]
    for entry in commit.set_entries:
        args += [indexes[entry.index], entry.score, entry.member]
    for index, member in commit.clear_entries:
        args += [indexes[index], member]
    return keys, args


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
        at = LogPosition.of_entry(entry[0])
        fields = fields_of(entry[1])
        return StoredEvent(
            version=at.position,
            epoch=at.epoch,
            position=int(fields[b"position"]),
            commit_id=fields[b"commit"].decode(),
            hash=fields[b"hash"].decode(),
            data=fields[b"event"],
        )


def stored_commit(number: int, entry: tuple[bytes, Any]) -> StoredCommit:
    with _reading(entry[0]):
        at = LogPosition.of_entry(entry[0])
        fields = fields_of(entry[1])
        anchors = fields[b"anchors"].decode()
        return StoredCommit(
            partition=number,
            epoch=at.epoch,
            position=at.position,
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

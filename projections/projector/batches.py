"""What a projector applies at once: whole commits that continue the checkpoints, decoded and checked."""

from collections.abc import Iterator, Sequence
from typing import Literal

from msgspec import Struct

from eventstore.errors import PositionMissingError
from eventstore.store import StoredCommit
from projections.archive.lines import EventLine, event_line
from projections.checkpoints import Checkpoint, Checkpoints
from projections.fold.frames import Frame, contradiction, decode_frames, read_event
from projections.fold.histories import Entry

Standing = Literal["ok", "already", "ahead", "mismatch"]
"""How a checkpoint that was found relates to a batch; see :func:`compare`."""


class Fault(Struct, frozen=True):
    """Why the database refuses an event."""

    reason: str
    unarchivable: bool
    """Whether the archive's columns refuse it, too: then its bytes are archived as they are."""


Faults = dict[tuple[str, int], Fault]
"""By order and version."""


class Batch(Struct, frozen=True):
    """Whole commits of some partitions, in the order of their logs."""

    commits: Sequence[StoredCommit]
    entries: list[Entry]
    lines: list[EventLine]
    ends: dict[int, Checkpoint]
    """Where each partition is after the batch."""
    recorded_us: dict[int, int]
    """When the last event of each partition was appended."""

    @property
    def places(self) -> list[tuple[int, int, int]]:
        """Partition, epoch and position of each commit."""
        return [(commit.partition, commit.epoch, commit.position) for commit in self.commits]


def compare(assumed: Checkpoint, end: Checkpoint, found: Checkpoint) -> Standing:
    """Return how ``found``, the locked checkpoint, relates to a batch that continues ``assumed`` and ends at ``end``.

    ``ok``: the batch continues it. ``already``: all of the batch was applied, by somebody else. ``ahead``: somebody
    applied part of it. ``mismatch``: it is behind, or at another event than the batch knows there: the database or the
    log was replaced. Only at ``ok`` may anything be written; otherwise read on from ``found``.
    """
    if found == assumed:
        return "ok"
    if found.position > end.position or found == end:
        return "already"
    if assumed.position < found.position < end.position:
        return "ahead"
    return "mismatch"


def batch_of(commits: Sequence[StoredCommit], checkpoints: Checkpoints, faults: Faults | None = None) -> Batch:
    """Return ``commits`` as a batch. Events that cannot be read, or that ``faults`` names, are entries with a fault.

    Raises:
        PositionMissingError: they do not continue ``checkpoints`` without a hole.
    """
    entries: list[Entry] = []
    lines: list[EventLine] = []
    ends: dict[int, Checkpoint] = {}
    recorded_us: dict[int, int] = {}
    frames = iter(_decoded(commits))
    for commit in commits:
        last = ends.get(commit.partition, checkpoints[commit.partition])
        first = commit.position - len(commit.events) + 1
        if first != last.position + 1:
            raise PositionMissingError(commit.partition, last.position + 1, first)
        for index, data in enumerate(commit.events):
            entry = _entry(commit, index, next(frames), faults or {})
            entries.append(entry)
            lines.append(event_line(commit, entry, data))
        ends[commit.partition] = Checkpoint(commit.partition, commit.epoch, commit.position, commit.anchors[-1])
        recorded_us[commit.partition] = commit.recorded_us
    return Batch(commits, entries, lines, ends, recorded_us)


def _decoded(commits: Sequence[StoredCommit]) -> list[Frame | str]:
    """Return the frame of each event, or why it has none."""
    datas = [data for commit in commits for data in commit.events]
    frames = decode_frames(datas)
    if frames is not None and not any(
        contradiction(*place, frame) for place, frame in zip(_places(commits), frames, strict=True)
    ):
        return list(frames)
    return [read_event(*place, data) for place, data in zip(_places(commits), datas, strict=True)]


def _places(commits: Sequence[StoredCommit]) -> Iterator[tuple[str, int, str]]:
    """Yield what the log says of each event: order, version, anchor."""
    for commit in commits:
        first = commit.version - len(commit.events) + 1
        for index, anchor in enumerate(commit.anchors):
            yield commit.stream, first + index, anchor


def _entry(commit: StoredCommit, index: int, frame: Frame | str, faults: Faults) -> Entry:
    version = commit.version - len(commit.events) + 1 + index
    refused = faults.get((commit.stream, version))
    readable = frame if isinstance(frame, Frame) and not (refused is not None and refused.unarchivable) else None
    return Entry(
        order_id=commit.stream,
        version=version,
        partition=commit.partition,
        position=commit.position - len(commit.events) + 1 + index,
        recorded_us=commit.recorded_us,
        hash=frame.meta.hash if isinstance(frame, Frame) else commit.anchors[index],
        frame=readable,
        fault=frame if isinstance(frame, str) else refused.reason if refused is not None else None,
    )

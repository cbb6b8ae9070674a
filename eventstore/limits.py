"""The bounds of one append, checked before anything is sent to a server."""

from eventstore.store import MAX_COMMIT_BYTES, MAX_EVENTS, Append


def check_append(commit: Append) -> None:
    """Refuse an append that no store takes.

    Raises:
        ValueError: no events, too many, too large together, or a finished task of another partition.
    """
    if not 1 <= len(commit.events) <= MAX_EVENTS:
        raise ValueError(f"an append has 1 to {MAX_EVENTS} events, not {len(commit.events)}")
    size = sum(len(event.data) for event in commit.events)
    if size > MAX_COMMIT_BYTES:
        raise ValueError(f"the events of one append have at most {MAX_COMMIT_BYTES} bytes, not {size}")

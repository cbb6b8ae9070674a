"""The errors of the event store; each says what the caller does next."""


class EventStoreError(Exception):
    """Base of every error that the event store raises on purpose."""


class WrongVersionError(EventStoreError):
    """Another writer appended first; nothing was written. Reload, decide again, retry a bounded number of times.

    ``version`` and ``hash`` are the stream's actual head; version 0 and hash "" for an empty stream.
    """

    def __init__(self, stream: str, expected: int, version: int, head_hash: str) -> None:
        super().__init__(f"stream {stream} is at version {version}, not {expected}")
        self.stream = stream
        self.expected = expected
        self.version = version
        self.hash = head_hash


class IdempotencyConflictError(EventStoreError):
    """The idempotency key belongs to ``stream``, with another fingerprint; nothing was written. Refuse the request."""

    def __init__(self, stream: str) -> None:
        super().__init__(f"the idempotency key was already used, with another content, by {stream}")
        self.stream = stream


class EpochStaleError(EventStoreError):
    """The store is in another epoch than this client: data may have been lost or replaced. Open the store again.

    ``epoch`` is the store's own; 0 where the store's records are missing altogether.
    """

    def __init__(self, expected: int, epoch: int) -> None:
        super().__init__(f"the store is in epoch {epoch}, this client in epoch {expected}: open the store again")
        self.expected = expected
        self.epoch = epoch


class OutcomeUnknownError(EventStoreError):
    """No answer came: the append may or may not have happened. Send the same append, with the same commit id, again."""

    def __init__(self, commit_id: str, cause: str) -> None:
        super().__init__(f"the outcome of commit {commit_id} is unknown ({cause}): send the same append again")
        self.commit_id = commit_id


class StoreUnavailableError(EventStoreError):
    """The server cannot be reached or refuses commands (out of memory, loading, read-only). Back off and retry."""


class ConnectionLostError(StoreUnavailableError):
    """The connection was lost or timed out while a command was under way: it may or may not have run."""


class StoreMismatchError(EventStoreError):
    """The store was created with other fixed settings, or another program owns its keys. Change the named setting."""


class DamagedEntryError(EventStoreError):
    """An entry of the store cannot be read: somebody else wrote or changed it. Restore the Redis data."""

    def __init__(self, entry_id: str, cause: Exception) -> None:
        super().__init__(f"the entry {entry_id} cannot be read ({type(cause).__name__}: {cause})")
        self.entry_id = entry_id


class LevelUnavailableError(EventStoreError):
    """The server cannot give the configured acknowledgement level; the message names the setting that accepts less."""


class PositionMissingError(EventStoreError):
    """A reader found a hole where the next position must be. Stop reading and run ``ordertape audit verify``."""

    def __init__(self, partition: int, expected: int, found: int) -> None:
        super().__init__(f"partition {partition}: position {expected} is missing, found {found}")
        self.partition = partition
        self.expected = expected
        self.found = found


class NotCanonicalError(EventStoreError):
    """A value has no canonical JSON form; ``path`` names it. It was not appended: repair the producer."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path or 'the event'}: {problem}")
        self.path = path


class BadIdError(EventStoreError):
    """A text is not a stream id, an event id or a cursor of this store."""

"""Opening a store: its fixed settings, and what its servers can make an acknowledgement worth."""

import asyncio
from typing import Any, Final

from msgspec import Struct

from eventstore.errors import LevelUnavailableError
from eventstore.ids import MAX_PARTITIONS
from eventstore.levels import FSYNC, MEMORY, Level, replicated
from eventstore.redis.connection import Durability, Pipeline, RefusedError

DEFAULT_PARTITIONS: Final = 4
LEVEL_TIMEOUT_MS: Final = 1_000
"""How long an append waits for its level once it has happened."""
PROBE_WAITS: Final = 4
PROBE_WAIT_MS: Final = 2_000
HONEST_MS_MIN: Final = 1_500
"""A server that flushes once a second cannot honestly confirm :data:`PROBE_WAITS` writes in less."""
_PROBE_KEY_SECONDS: Final = 60


class StoreSettings(Struct, frozen=True, kw_only=True):
    """What is fixed for a store's life, and the level its acknowledgements are worth."""

    partitions: int = DEFAULT_PARTITIONS
    level: Level = FSYNC
    namespace: str = "ot"
    """First part of every key; lets several stores share a server."""
    incarnation: str | None = None
    """Identity of the server's data where the server hides its own; change it when data may have been lost."""

    def __post_init__(self) -> None:
        if not 1 <= self.partitions <= MAX_PARTITIONS:
            raise ValueError(f"partitions must be 1 to {MAX_PARTITIONS}, not {self.partitions}")

    def key_prefix(self, partition: int) -> str:
        """Return the part that all keys of a partition share; its braces keep them in one hash slot."""
        return f"{{{self.namespace}:{partition:02d}}}"


class Flushing(Struct, frozen=True):
    """How the servers flush appends to their disks: before each reply, on demand (WAITAOF), or neither."""

    always: bool
    on_demand: bool
    found: str
    """What was found, for a person."""

    def durability(self, level: Level) -> Durability | None:
        """Return what an append of ``level`` waits for on its connection; None: its reply alone is worth it.

        Raises:
            LevelUnavailableError: the servers do not give this level; the message names both remedies.
        """
        if level.is_flushed and not (self.always or self.on_demand):
            raise LevelUnavailableError(
                f"ACK_LEVEL={level} needs a Redis server with `appendonly yes` and `appendfsync always`; {self.found}. "
                "Change the server, or set ACK_LEVEL=memory to accept the loss of acknowledged orders in a crash"
            )
        flushed = level.is_flushed and not self.always
        if not level.replicas and not flushed:
            return None
        return Durability(replicas=level.replicas, flushed=flushed, timeout_ms=LEVEL_TIMEOUT_MS)

    def reached(self, durability: Durability | None, replicas: int, flushed: bool) -> Level:
        """Return what an append was worth whose connection said ``replicas`` and ``flushed``."""
        if not self.always and not flushed:
            return MEMORY
        if durability is None or not replicas:
            return FSYNC
        return replicated(min(replicas, 9))


def probe_key(settings: StoreSettings) -> str:
    """Return the key that may be written to try a server out."""
    return f"{settings.key_prefix(0)}:probe"


async def flushing_of(pipeline: Pipeline, level: Level, key: str) -> Flushing:
    """Return how the servers flush, as each of them says.

    Args:
        key: may be written to try a server out.
        level: the one that will be asked for; whether WAITAOF tells the truth is tried out only when it is needed.

    Raises:
        LevelUnavailableError: a server does not tell, and ``level`` needs to know.
    """
    try:
        found = [await _configured(pipeline, name) for name in ("appendonly", "appendfsync")]
    except RefusedError as error:
        if not level.is_flushed:
            return Flushing(False, False, "this one does not tell its configuration")
        raise LevelUnavailableError(
            f"the Redis server does not tell its durability ({error}); set ACK_LEVEL=memory to accept that"
        ) from error
    onlys, fsyncs = found
    text = f"this one has `appendonly {'/'.join(sorted(onlys))}` and `appendfsync {'/'.join(sorted(fsyncs))}`"
    if onlys == {"yes"} and fsyncs == {"everysec"} and level.is_flushed:
        return Flushing(False, await _waitaof_is_honest(pipeline, key), f"{text}, and its WAITAOF is not to be trusted")
    return Flushing(onlys == {"yes"} and fsyncs == {"always"}, False, text)


async def _configured(pipeline: Pipeline, name: str) -> set[str]:
    replies: list[tuple[str, Any]] = await pipeline.each_master("CONFIG", "GET", name)
    return {reply[1].decode() if len(reply) > 1 else "unknown" for _, reply in replies}


async def _waitaof_is_honest(pipeline: Pipeline, key: str) -> bool:
    try:
        return await probe_waitaof(pipeline, key) > HONEST_MS_MIN
    except RefusedError:
        return False


async def probe_waitaof(pipeline: Pipeline, key: str) -> int:
    """Return how many milliseconds :data:`PROBE_WAITS` writes took, each followed by WAITAOF for the local disk.

    A server with ``appendfsync everysec`` flushes once a second: one that answers much sooner says what is not true
    (Redis 7.4.1, Valkey 8.0.1 and 9.1.2 do). Writes ``key``, which expires; needs Redis 7.2 with an append-only file.

    Raises:
        StoreUnavailableError: the server cannot be reached, or refuses one of the commands.
    """
    clock = asyncio.get_running_loop().time
    start = clock()
    for _ in range(PROBE_WAITS):
        # Over the same connection: WAITAOF answers for the writes of its own connection alone.
        await pipeline.execute("SET", key, "1", "EX", _PROBE_KEY_SECONDS)
        await pipeline.execute("WAITAOF", 1, 0, PROBE_WAIT_MS, key=key)
    return round((clock() - start) * 1000)

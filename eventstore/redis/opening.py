"""Opening a store: its fixed settings, its creation, and the durability its server really gives."""

from typing import Any, Final

from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from eventstore.errors import LevelUnavailableError, StoreMismatchError
from eventstore.ids import MAX_PARTITIONS
from eventstore.redis.scripts import OPEN
from eventstore.store import Level

DEFAULT_PARTITIONS: Final = 4


class StoreSettings(Struct, frozen=True, kw_only=True):
    """What is fixed for a store's life, and the level its acknowledgements are worth."""

    partitions: int = DEFAULT_PARTITIONS
    level: Level = "fsync"
    namespace: str = "ot"
    """First part of every key; lets several stores share a server."""

    def __post_init__(self) -> None:
        if not 1 <= self.partitions <= MAX_PARTITIONS:
            raise ValueError(f"partitions must be 1 to {MAX_PARTITIONS}, not {self.partitions}")

    def key_prefix(self, partition: int) -> str:
        """Return the part that all keys of a partition share; its braces keep them in one hash slot."""
        return f"{{{self.namespace}:{partition:02d}}}"


async def ensure_level(client: Redis, level: Level) -> None:
    """Refuse a server whose acknowledgements are worth less than ``level``.

    Raises:
        LevelUnavailableError: see the message for both remedies.
    """
    if level == "memory":
        return
    try:
        found = {name: (await client.config_get(name)).get(name, "unknown") for name in ("appendonly", "appendfsync")}
    except ResponseError as error:
        raise LevelUnavailableError(
            f"the Redis server does not tell its durability ({error}); set ACK_LEVEL=memory to accept that"
        ) from error
    if found != {"appendonly": "yes", "appendfsync": "always"}:
        raise LevelUnavailableError(
            "ACK_LEVEL=fsync needs a Redis server with `appendonly yes` and `appendfsync always`; this one has "
            f"`appendonly {found['appendonly']}` and `appendfsync {found['appendfsync']}`. "
            "Change the server, or set ACK_LEVEL=memory to accept the loss of acknowledged orders in a crash"
        )


async def open_partitions(client: Redis, settings: StoreSettings, new_store_id: str) -> tuple[str, list[int]]:
    """Return the store's id and the epoch of each partition, creating the store where there is none.

    Raises:
        StoreMismatchError: created with another number of partitions, or part of its records is gone.
    """
    keys = [f"{settings.key_prefix(number)}:meta" for number in range(settings.partitions)]
    known = [await _record(client, key) for key in keys]
    present = [record for record in known if record is not None]
    for _, partitions in present:
        if partitions != settings.partitions:
            raise StoreMismatchError(
                f"the store was created with {partitions} partitions, which is fixed; it cannot be opened with "
                f"{settings.partitions}"
            )
    # The first partition's record is written last: where it exists, all others must.
    if known[0] is not None and len(present) < len(known):
        raise StoreMismatchError(
            f"partition {known.index(None)} of store {known[0][0]} has lost its records: "
            "restore the Redis data before using it"
        )
    store_id = present[0][0] if present else new_store_id
    epochs: list[int] = []
    for key in reversed(keys):
        reply: Any = await client.eval(OPEN.text, 1, key, store_id, str(settings.partitions))
        store_id = reply[0].decode()
        epochs.insert(0, int(reply[2]))
    return store_id, epochs


async def _record(client: Redis, key: str) -> tuple[str, int] | None:
    reply: Any = await client.hmget(key, ["store", "partitions"])
    return None if reply[0] is None else (reply[0].decode(), int(reply[1]))

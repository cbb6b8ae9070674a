"""How fresh an answer about orders must be, as a request says it, and how fresh it is, as every answer says it."""

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncEngine

from app.api.problems import RETRY_AFTER_MS, ProblemError, unavailable
from app.api.requests import INTEGER, invalid_parameter
from app.api.resume import is_held
from app.clock import Clock
from app.execution.coalesce import Shared
from eventstore.errors import BadIdError, StoreUnavailableError, TruncatedError
from eventstore.ids import Cursor
from eventstore.store import EventStore
from projections.checkpoints import ORDERS
from projections.database import DATABASE_OUTAGES
from projections.errors import NotReachedError
from projections.queries.freshness import Reaching, is_contradicted, lag_ms, read_reaches

FRESHNESS_PARAMETERS: Final = ("minPosition", "afterCursor", "waitMs")
WAIT_MS: Final = 2_000
WAIT_MS_MAX: Final = 5_000
LOG_SECONDS_MAX: Final = 0.5
"""How long an answer from the read model waits to learn where the log ends; then it says a lag that may be 0."""
POSITION_HEADER: Final = "OrderTape-Position"
LAG_HEADER: Final = "OrderTape-Lag-Ms"

_PAIR: Final = re.compile(r"(?:([0-9]{2}):)?(.*)", re.ASCII | re.DOTALL)
_T = TypeVar("_T")


class AsOf(Struct, frozen=True, rename="camel"):
    """What an answer contains of each partition's log, at least."""

    positions: dict[str, int]
    """By partition, two digits."""
    lag_ms: int | None
    """Everything older than that is in it; None: not known."""

    def only(self, partition: int | None) -> "AsOf":
        """Return the same of one partition; of all of them for None."""
        if partition is None:
            return self
        name = f"{partition:02d}"
        return AsOf({name: self.positions[name]} if name in self.positions else {}, self.lag_ms)

    def headers(self) -> dict[str, str]:
        """Return the same as headers; the first one's value is good as a ``minPosition``."""
        headers = {POSITION_HEADER: ",".join(f"{number}:{position}" for number, position in self.positions.items())}
        if self.lag_ms is not None:
            headers[LAG_HEADER] = str(self.lag_ms)
        return headers


class Wanted(Struct, frozen=True):
    """What an answer must contain."""

    positions: Mapping[int, int]
    """By partition."""
    cursors: Mapping[int, Cursor]
    wait_ms: int

    def least(self) -> dict[int, int]:
        """Return the position that is wanted of each partition."""
        least = {number: cursor.position for number, cursor in self.cursors.items()}
        for number, position in self.positions.items():
            least[number] = max(position, least.get(number, 0))
        return least


def read_wanted(query: Mapping[str, str], partitions: int, certain: int | None) -> Wanted:
    """Return what the parameters of a request ask for.

    Args:
        certain: the one partition that the answer is about, which then need not be named; what is wanted of others is
            left out. None: it may be about all.

    Raises:
        ProblemError: ``invalid_query``.
    """
    positions = _by_partition(query, "minPosition", partitions, certain, _position)
    cursors = _by_partition(query, "afterCursor", partitions, certain, Cursor.parse)
    text = query.get("waitMs", str(WAIT_MS))
    if not INTEGER.fullmatch(text) or int(text) > WAIT_MS_MAX:
        raise invalid_parameter("waitMs", f"must be a whole number from 0 to {WAIT_MS_MAX}")
    return Wanted(positions, cursors, int(text))


class Freshness:
    """Waits for the read model where a request asks for it, and says how fresh it is."""

    def __init__(self, store: EventStore, database: AsyncEngine, clock: Clock) -> None:
        self._store = store
        self._database = database
        self._clock = clock
        self._reaching = Reaching(database)
        self._ends = Shared(store.log_ends, lambda: asyncio.sleep(0))

    async def projected(self, wanted: Wanted) -> None:
        """Return once the read model contains what is wanted.

        Raises:
            ProblemError: ``read_model_behind``: it did not within ``wait_ms``; ``cursor_forked``; ``unavailable``.
        """
        least = wanted.least()
        if not least:
            return
        try:
            try:
                await self._reaching.reached(least, wanted.wait_ms / 1_000)
            except NotReachedError as error:
                await self._require_lasting(wanted.cursors)
                raise _behind(error) from error
            await self._require_lasting(wanted.cursors)
        except DATABASE_OUTAGES as error:
            raise unavailable("single orders and their events can still be read") from error

    async def logged(self, partition: int, wanted: Wanted) -> None:
        """Return once a stream that is read next contains what is wanted of its partition.

        Raises:
            ProblemError: ``cursor_forked``; ``truncated``; as :meth:`projected` where the log does not hold it.
            StoreUnavailableError: back off and ask again.
        """
        cursor = wanted.cursors.get(partition)
        if cursor is not None:
            try:
                held = await is_held(self._store, partition, cursor)
            except TruncatedError as error:
                raise ProblemError(
                    "truncated",
                    f"the log now begins at position {error.oldest}, so what became of {cursor} cannot be told: "
                    "ask without afterCursor",
                    cursor=str(cursor),
                ) from error
            if not held:
                raise _fork(partition, cursor)
        position = wanted.positions.get(partition)
        if position is not None and (await self._ends.get())[partition].position < position:
            await self.projected(wanted)

    async def as_of(self, partition: int | None = None, projection: str = ORDERS) -> AsOf:
        """Return how fresh the rows of ``projection`` are that are read next, of one partition or of all.

        Raises:
            one of :data:`projections.database.DATABASE_OUTAGES`.
        """
        try:
            async with asyncio.timeout(LOG_SECONDS_MAX):
                ends = await self._ends.get()
        except (StoreUnavailableError, TimeoutError):
            ends = None
        found = await read_reaches(self._database, projection)
        reaches = {number: reach for number, reach in found.items() if partition in (None, number)}
        positions = {f"{number:02d}": reach.position for number, reach in reaches.items()}
        return AsOf(positions, lag_ms(reaches, ends, self._clock.now_us()))

    async def close(self) -> None:
        """Stop waiting. Idempotent."""
        await self._reaching.close()

    async def _require_lasting(self, cursors: Mapping[int, Cursor]) -> None:
        for partition, cursor in cursors.items():
            if await is_contradicted(self._database, partition, cursor):
                raise _fork(partition, cursor)


def _fork(partition: int, cursor: Cursor) -> ProblemError:
    return ProblemError(
        "cursor_forked",
        f"partition {partition:02d} has no event {cursor}: what you saw there did not last, or is another partition's; "
        "read again without afterCursor",
        partition=partition,
        cursor=str(cursor),
    )


def _behind(error: NotReachedError) -> ProblemError:
    return ProblemError(
        "read_model_behind",
        f"the read model of partition {error.partition:02d} is at position {error.found}, not yet at {error.position}: "
        "ask again, or for less",
        partition=error.partition,
        wanted=error.position,
        reached=error.found,
        retryAfterMs=RETRY_AFTER_MS,
    )


def _by_partition(
    query: Mapping[str, str], name: str, partitions: int, certain: int | None, parse: Callable[[str], _T]
) -> dict[int, _T]:
    found: dict[int, _T] = {}
    for part in query[name].split(",") if name in query else ():
        match = _PAIR.fullmatch(part)
        assert match is not None
        partition = certain if match[1] is None else int(match[1])
        if partition is None:
            raise invalid_parameter(
                name, "must name a partition, such as 03:…, unless the answer is about one client's orders"
            )
        if partition >= partitions:
            raise invalid_parameter(name, f"must name partitions from 00 to {partitions - 1:02d}")
        try:
            value = parse(match[2])
        except (BadIdError, ValueError):
            raise invalid_parameter(name, _ACCEPTED[name]) from None
        if partition in found:
            raise invalid_parameter(name, f"must name partition {partition:02d} once")
        found[partition] = value
    return {number: value for number, value in found.items() if certain in (None, number)}


_ACCEPTED: Final = {
    "minPosition": "must be a position such as 812, or pairs such as 02:40,03:812",
    "afterCursor": "must be the cursor of an event such as 1-812-9f86d081, or pairs such as 03:1-812-9f86d081",
}


def _position(text: str) -> int:
    if not INTEGER.fullmatch(text):
        raise ValueError(text[:64])
    return int(text)

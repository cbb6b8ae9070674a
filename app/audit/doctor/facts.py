"""What the rules judge: gathered from Redis, from PostgreSQL and from the settings; nothing is decided here."""

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from app.embedded import Servers
from app.settings import Settings
from eventstore.levels import Level
from eventstore.redis.inspection import RedisFacts, ServerFacts, inspect_redis, probe_server
from eventstore.redis.opening import StoreSettings
from projections.database import DATABASE_OUTAGES
from projections.errors import EncodingError
from projections.projector.standing import Stopped
from projections.schema.inspection import DatabaseFacts, inspect_database

WAITAOF_SINCE: Final = (7, 2)


class Wanted(Struct, frozen=True, kw_only=True):
    """What the settings promise."""

    ack_level: Level
    intent_level: Level
    partitions: int
    claim_idle_ms: int

    @property
    def levels(self) -> tuple[Level, ...]:
        """Both of them."""
        return (self.ack_level, self.intent_level)

    @property
    def is_flushed(self) -> bool:
        """Whether some level rests on the disk of the server that took the append."""
        return any(level.is_flushed for level in self.levels)


class OrderFacts(Struct, frozen=True, kw_only=True):
    """Open orders, as far as they were looked at."""

    checked: int
    stuck: int
    """Those without the task or timer that they need."""
    is_sample: bool
    """Whether there are more open orders than were looked at."""
    parked: int
    """Tasks that were taken away from the workers and that nobody chose to skip."""
    quarantined: int = 0
    """Orders with an event that could not be projected."""
    stopped: tuple[Stopped, ...] = ()
    """Partitions that are not projected."""


class Facts(Struct, frozen=True, kw_only=True):
    """Everything that is judged."""

    wanted: Wanted
    redis: RedisFacts
    database: DatabaseFacts | None
    """None: nothing could be told of it."""
    database_encoding: str | None = None
    """Of a database that is refused because of it."""
    probe_ms: int | None = None
    """How long the writes of the WAITAOF probe took; None: not run."""
    orders: OrderFacts | None = None
    """None: not looked at."""


def wanted_by(settings: Settings) -> Wanted:
    """Return what ``settings`` promise."""
    return Wanted(
        ack_level=settings.ack_level,
        intent_level=settings.intent,
        partitions=settings.partitions,
        claim_idle_ms=settings.claim_idle_ms,
    )


def is_probed(server: ServerFacts) -> bool:
    """Return whether WAITAOF of this server is there, and could lie."""
    config = server.config
    everysec = (config.get("appendonly"), config.get("appendfsync")) == ("yes", "everysec")
    return everysec and server.redis_version >= WAITAOF_SINCE


async def gather(settings: Settings, servers: Servers, now_us: Callable[[], int], *, is_start: bool = False) -> Facts:
    """Return the facts about ``servers``; what orders lack is not among them.

    Args:
        settings: what the engine would run with.
        servers: must name a database.
        now_us: this host's clock, in microseconds since 1970.
        is_start: take a PostgreSQL that is away for no obstacle, and probe WAITAOF only if a level rests on it.

    Raises:
        StoreUnavailableError: Redis cannot be reached or read.
        DATABASE_OUTAGES: PostgreSQL cannot be reached, unless ``is_start``.
    """
    wanted = wanted_by(settings)
    store = StoreSettings(partitions=settings.partitions, namespace=settings.namespace)
    redis = await inspect_redis(servers.redis_url, store, now_us)
    database, encoding = await _database(servers, now_us, may_be_away=is_start)
    probed = any(is_probed(server) for server in redis.servers) and (wanted.is_flushed or not is_start)
    return Facts(
        wanted=wanted,
        redis=redis,
        database=database,
        database_encoding=encoding,
        probe_ms=await probe_server(servers.redis_url, store) if probed else None,
    )


async def _database(
    servers: Servers, now_us: Callable[[], int], *, may_be_away: bool
) -> tuple[DatabaseFacts | None, str | None]:
    """Return the database's facts, or the encoding for which it is refused."""
    if servers.database_url is None:
        raise ValueError("these servers have no database")
    try:
        return await inspect_database(servers.database_url, now_us), None
    except EncodingError as error:
        return None, error.encoding
    except DATABASE_OUTAGES:
        if not may_be_away:
            raise
        return None, None

"""Every finding that the doctor can make: its id, its severities, what follows from it, and what mends it."""

from typing import Final, Literal

from msgspec import Struct

Severity = Literal["fatal", "warning", "note"]
SEVERITIES: Final[tuple[Severity, ...]] = ("fatal", "warning", "note")
"""Worst first."""


class Finding(Struct, frozen=True, kw_only=True):
    """Something that is so, and that whoever runs the engine should know."""

    id: str
    severity: Severity
    place: str
    """The server or the settings that it was found in."""
    found: str
    consequence: str
    fix: str
    """The command or setting that mends it; "" where there is nothing to mend."""


class Kind(Struct, frozen=True, kw_only=True):
    """What all findings of one id share. ``fix`` has its variable parts in braces."""

    severities: tuple[Severity, ...]
    meaning: str
    consequence: str
    fix: str = ""


def finding(name: str, severity: Severity, place: str, found: str, **parts: object) -> Finding:
    """Return a finding of the kind ``name``; ``parts`` fill the braces of its fix."""
    kind = KINDS[name]
    return Finding(
        id=name,
        severity=severity,
        place=place,
        found=found,
        consequence=kind.consequence,
        fix=kind.fix.format(**parts),
    )


_FATAL: Final[tuple[Severity, ...]] = ("fatal",)
_WARNING: Final[tuple[Severity, ...]] = ("warning",)
_NOTE: Final[tuple[Severity, ...]] = ("note",)
_BY_LEVEL: Final[tuple[Severity, ...]] = ("fatal", "warning")
"""Fatal where a configured level cannot be given, else a warning."""

_ALTER: Final = "ALTER SYSTEM SET {0} = on; SELECT pg_reload_conf();"

# Keep in step with docs/doctor.md: a test compares the two.
KINDS: Final[dict[str, Kind]] = {
    "redis-version": Kind(
        severities=_NOTE,
        meaning="the server's software",
        consequence="every command that the engine needs is there",
    ),
    "redis-old": Kind(
        severities=_FATAL,
        meaning="the server is older than Redis 6.2",
        consequence="commands that the engine needs are missing",
        fix="upgrade to Redis 6.2 or later, or to Valkey",
    ),
    "config-hidden": Kind(
        severities=_BY_LEVEL,
        meaning="the server refuses `CONFIG GET`, as managed ones do",
        consequence="these settings cannot be checked, so nothing that rests on them is sure",
        fix="allow CONFIG GET to this user, or ask the provider; {setting}",
    ),
    "eviction-policy": Kind(
        severities=_FATAL,
        meaning="`maxmemory-policy` is not `noeviction`",
        consequence="short of memory, the server deletes history",
        fix="CONFIG SET maxmemory-policy noeviction",
    ),
    "memory-short": Kind(
        severities=_WARNING,
        meaning="more than 80 % of `maxmemory` is used",
        consequence="at 100 % every append is refused",
        fix="CONFIG SET maxmemory, to more than {limit}",
    ),
    "node-max-bytes": Kind(
        severities=_WARNING,
        meaning="`stream-node-max-bytes` is above 1024 or unlimited",
        consequence="each order takes more memory than it needs",
        fix="CONFIG SET stream-node-max-bytes 1024",
    ),
    "aof-off": Kind(
        severities=_BY_LEVEL,
        meaning="`appendonly` is not `yes`",
        consequence="a crash of the server loses every order since its last snapshot",
        fix="CONFIG SET appendonly yes{or_level}",
    ),
    "aof-fsync": Kind(
        severities=_BY_LEVEL,
        meaning="`appendfsync` is not `always`, and no honest WAITAOF makes up for it",
        consequence="a crash of the machine loses acknowledged events",
        fix="CONFIG SET appendfsync always{or_level}",
    ),
    "waitaof-dishonest": Kind(
        severities=_BY_LEVEL,
        meaning="WAITAOF answers sooner than `appendfsync everysec` can have flushed",
        consequence="a crash of the machine loses events that were acknowledged as flushed",
        fix="CONFIG SET appendfsync always, or upgrade the server{or_level}",
    ),
    "waitaof-probe": Kind(
        severities=_NOTE,
        meaning="whether WAITAOF was probed, and how it did",
        consequence="only a server with `appendfsync everysec` and WAITAOF has anything to probe",
    ),
    "aof-truncated": Kind(
        severities=_WARNING,
        meaning="`aof-load-truncated` is `no`",
        consequence="after a crash in the middle of a write the server does not start by itself",
        fix="CONFIG SET aof-load-truncated yes",
    ),
    "intent-level": Kind(
        severities=_FATAL,
        meaning="there are replicas or a cluster, and the intent's level is below `witnessed`",
        consequence="a promotion may lose an intent that was already sent, and the order is swapped twice",
        fix="INTENT_LEVEL=witnessed",
    ),
    "replicas-few": Kind(
        severities=_FATAL,
        meaning="fewer replicas are connected than `replicated:k` asks for",
        consequence="no append reaches its level, so none is acknowledged",
        fix="connect {count} replicas, or ACK_LEVEL=fsync",
    ),
    "min-replicas": Kind(
        severities=_NOTE,
        meaning="`min-replicas-to-write` is below the `k` of `replicated:k`",
        consequence="a master that lost its replicas takes writes that it can only leave unacknowledged",
        fix="CONFIG SET min-replicas-to-write {count}",
    ),
    "client-retries": Kind(
        severities=_FATAL,
        meaning="our Redis client sends commands again by itself",
        consequence="a write whose answer was lost may happen twice",
        fix="pip install --force-reinstall 'redis>=8.1,<8.2'",
    ),
    "client-timeout": Kind(
        severities=_FATAL,
        meaning="a task may be claimed before a command's time-out",
        consequence="two workers may be at one order as a matter of course",
        fix="ORDERTAPE_CLAIM_IDLE_MS={least_ms}",
    ),
    "clock-skew": Kind(
        severities=("fatal", "warning"),
        meaning="a server's clock is more than 1 s (warning) or 30 s (fatal) from this host's",
        consequence="timers fire, and tasks are claimed, at the wrong time, and recorded times contradict each other",
        fix="synchronise both clocks: timedatectl set-ntp true",
    ),
    "partition-count": Kind(
        severities=_FATAL,
        meaning="the store was created with another number of partitions",
        consequence="orders would be looked for in partitions that they are not in",
        fix="ORDERTAPE_PARTITIONS={partitions}",
    ),
    "store-incomplete": Kind(
        severities=_FATAL,
        meaning="some partitions have lost their records",
        consequence="Redis has lost data; these partitions accept nothing until they are healed from PostgreSQL",
        fix="start the engine, which heals them",
    ),
    "store-mixed": Kind(
        severities=_FATAL,
        meaning="partitions of several stores stand under one namespace",
        consequence="what is read as one history is none",
        fix="stop everything and restore the Redis data, or correct ORDERTAPE_NAMESPACE",
    ),
    "store-id": Kind(
        severities=_FATAL,
        meaning="PostgreSQL holds the read model of another store than the one in Redis",
        consequence="the projector refuses to run, and every look-up answers with other orders",
        fix="correct REDIS_URL, ORDERTAPE_NAMESPACE or DATABASE_URL, or name an empty database",
    ),
    "store-lost": Kind(
        severities=_FATAL,
        meaning="PostgreSQL knows a store, and Redis has none",
        consequence="the engine does not start on an emptied Redis: a wrong URL looks the same",
        fix="correct REDIS_URL or ORDERTAPE_NAMESPACE; if Redis lost everything, run `ordertape restore`",
    ),
    "postgres-version": Kind(
        severities=_NOTE,
        meaning="the server's version",
        consequence="everything that the read model needs is there",
    ),
    "postgres-old": Kind(
        severities=_FATAL,
        meaning="the server is older than PostgreSQL 13",
        consequence="the schema cannot be created",
        fix="upgrade to PostgreSQL 13 or later",
    ),
    "postgres-encoding": Kind(
        severities=_FATAL,
        meaning="the database's encoding is not UTF8",
        consequence="it cannot hold every event, and every connection is refused",
        fix="CREATE DATABASE <name> ENCODING 'UTF8' TEMPLATE template0; DATABASE_URL=<its address>",
    ),
    "postgres-fsync": Kind(
        severities=_FATAL,
        meaning="`fsync` is off",
        consequence="a crash of the machine may destroy the whole database, the archive included",
        fix=_ALTER.format("fsync"),
    ),
    "synchronous-commit": Kind(
        severities=_BY_LEVEL,
        meaning="`synchronous_commit` is off",
        consequence="a crash loses the last commits, so having been seen there proves nothing",
        fix=_ALTER.format("synchronous_commit"),
    ),
    "schema-empty": Kind(
        severities=_NOTE,
        meaning="the database has no schema yet",
        consequence="the first start creates it",
        fix="ordertape up, or ordertape project",
    ),
    "schema-behind": Kind(
        severities=_FATAL,
        meaning="the schema is older than this code",
        consequence="reads and projections fail until it is migrated",
        fix="ordertape up, or ordertape project",
    ),
    "schema-later": Kind(
        severities=_NOTE,
        meaning="the schema is a later one, which says that this code still works on it",
        consequence="everything works but rebuilds, which would lose what is new",
        fix="install the version of OrderTape that migrated it",
    ),
    "schema-unknown": Kind(
        severities=_FATAL,
        meaning="the schema is none that this code knows or works on: most likely newer",
        consequence="this code would misread or damage it",
        fix="install the version of OrderTape that migrated it",
    ),
    "orders-stuck": Kind(
        severities=_WARNING,
        meaning="open orders have neither the task nor the timer that they need",
        consequence="nothing will ever move them on",
        fix="ordertape audit verify",
    ),
    "tasks-parked": Kind(
        severities=_WARNING,
        meaning="tasks were taken away from the workers, because working on them failed again and again",
        consequence="their orders stand still until somebody retries or skips the tasks",
        fix="ordertape parked list",
    ),
    "orders-quarantined": Kind(
        severities=_WARNING,
        meaning="events of some orders could not be projected",
        consequence="their rows stand still before that event, and say so, until somebody retries or skips it",
        fix="ordertape projections parked list",
    ),
    "projection-stopped": Kind(
        severities=_WARNING,
        meaning="the projector cannot go on in a partition: a fork, a hole in the log, or another copy in the archive",
        consequence="the read model of this partition falls behind its streams",
        fix="ordertape audit verify",
    ),
    "orders-checked": Kind(
        severities=_NOTE,
        meaning="how many open orders were looked at; the oldest 10,000 at most, as the read model has them",
        consequence="those beyond it, and those not projected yet, were not looked at",
    ),
}
"""By id, in the order of ``docs/doctor.md``."""

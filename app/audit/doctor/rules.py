"""The doctor's judgement: pure rules from facts to findings."""

from collections.abc import Callable, Iterator
from typing import Final

from app.audit.doctor.facts import Facts, Wanted, is_probed
from app.audit.doctor.findings import SEVERITIES, Finding, Severity, finding
from eventstore.levels import WITNESSED
from eventstore.redis.inspection import ServerFacts
from eventstore.redis.opening import HONEST_MS_MIN, PROBE_WAITS
from projections.schema.inspection import DatabaseFacts

OLDEST_REDIS: Final = (6, 2)
OLDEST_POSTGRES: Final = 130_000
"""The probe's writes each wait for a flush, of which there is one a second."""
NODE_BYTES_MAX: Final = 1_024
MEMORY_PERCENT_MAX: Final = 80
SKEW_WARNING_US: Final = 1_000_000
SKEW_FATAL_US: Final = 30_000_000
_MIB: Final = 1024 * 1024
_SETTINGS: Final = "settings"
_POSTGRES: Final = "PostgreSQL"
_OR_MEMORY: Final = ", or ACK_LEVEL=memory to accept that"

Rule = Callable[[Facts], Iterator[Finding]]
ServerRule = Callable[[Wanted, ServerFacts], Iterator[Finding]]


def judge(facts: Facts) -> list[Finding]:
    """Return every finding, the worst first; among equals the order is that of the rules."""
    found = [each for rule in _RULES for each in rule(facts)]
    return sorted(found, key=lambda each: SEVERITIES.index(each.severity))


def _servers(facts: Facts) -> Iterator[Finding]:
    for server in facts.redis.servers:
        for rule in _SERVER_RULES:
            yield from rule(facts.wanted, server)


def place_of(server: ServerFacts) -> str:
    """Return how findings name ``server``."""
    return f"{server.software} {server.address}"


def _by_level(wanted: Wanted) -> Severity:
    return "fatal" if wanted.is_flushed else "warning"


def _or_level(wanted: Wanted) -> str:
    intent_rests_on_it = wanted.intent_level.is_flushed
    return _OR_MEMORY if wanted.is_flushed and not intent_rests_on_it else ""


def _redis_version(_: Wanted, server: ServerFacts) -> Iterator[Finding]:
    place, found = place_of(server), f"version {server.version}"
    if server.redis_version < OLDEST_REDIS:
        yield finding("redis-old", "fatal", place, found)
    else:
        yield finding("redis-version", "note", place, found)


def _hidden(wanted: Wanted, server: ServerFacts) -> Iterator[Finding]:
    if server.hidden:
        relied_on = wanted.is_flushed and not {"appendonly", "appendfsync"}.isdisjoint(server.hidden)
        accept = "ACK_LEVEL=memory accepts the doubt" if relied_on else "nothing in the settings rests on them"
        severity: Severity = "fatal" if relied_on else "warning"
        found = "hides " + ", ".join(server.hidden)
        yield finding("config-hidden", severity, place_of(server), found, setting=accept)


def _memory(_: Wanted, server: ServerFacts) -> Iterator[Finding]:
    policy = server.config.get("maxmemory-policy", "noeviction")
    if policy != "noeviction":
        yield finding("eviction-policy", "fatal", place_of(server), f"maxmemory-policy is {policy}")
    if server.maxmemory and server.used_memory * 100 > server.maxmemory * MEMORY_PERCENT_MAX:
        used, limit = server.used_memory // _MIB, server.maxmemory // _MIB
        found = f"{used} MiB of {limit} MiB are used"
        yield finding("memory-short", "warning", place_of(server), found, limit=server.maxmemory)
    node_bytes = int(server.config.get("stream-node-max-bytes", NODE_BYTES_MAX))
    if not 0 < node_bytes <= NODE_BYTES_MAX:
        yield finding("node-max-bytes", "warning", place_of(server), f"stream-node-max-bytes is {node_bytes}")


def _append_only_file(wanted: Wanted, server: ServerFacts) -> Iterator[Finding]:
    place, severity, accept = place_of(server), _by_level(wanted), _or_level(wanted)
    written = server.config.get("appendonly", "yes")
    flushed = server.config.get("appendfsync", "always")
    if written != "yes":
        yield finding("aof-off", severity, place, f"appendonly is {written}", or_level=accept)
    if flushed != "always" and not is_probed(server):
        yield finding("aof-fsync", severity, place, f"appendfsync is {flushed}", or_level=accept)
    if server.config.get("aof-load-truncated") == "no":
        yield finding("aof-truncated", "warning", place, "aof-load-truncated is no")


def _waitaof(facts: Facts) -> Iterator[Finding]:
    probed = [server for server in facts.redis.servers if is_probed(server)]
    took = "" if facts.probe_ms is None else f"{PROBE_WAITS} waits took {facts.probe_ms} ms"
    if not probed or facts.probe_ms is None:
        reasons = sorted({_why_not_probed(server) for server in facts.redis.servers})
        yield finding("waitaof-probe", "note", "Redis", f"not probed: {', '.join(reasons)}")
    elif facts.probe_ms > HONEST_MS_MIN:
        yield finding("waitaof-probe", "note", place_of(probed[0]), f"honest: {took}")
    else:
        accept = _or_level(facts.wanted)
        yield finding("waitaof-dishonest", _by_level(facts.wanted), place_of(probed[0]), took, or_level=accept)


def _why_not_probed(server: ServerFacts) -> str:
    flushed = server.config.get("appendfsync", "hidden")
    if flushed != "everysec":
        return f"appendfsync is {flushed}"
    if server.config.get("appendonly") != "yes":
        return "there is no append-only file"
    return f"version {server.version} has no WAITAOF"


def _replication(wanted: Wanted, server: ServerFacts) -> Iterator[Finding]:
    place = place_of(server)
    promotable = "a cluster" if server.is_cluster else _count(server.replicas, "replica")
    if (server.replicas or server.is_cluster) and wanted.intent_level < WITNESSED:
        yield finding("intent-level", "fatal", place, f"{promotable}; the intent's level is {wanted.intent_level}")
    asked = max(level.replicas for level in wanted.levels)
    if asked > server.replicas:
        yield finding("replicas-few", "fatal", place, f"{server.replicas} of {asked} replicas", count=asked)
    least = int(server.config.get("min-replicas-to-write", asked))
    if asked > least:
        yield finding("min-replicas", "note", place, f"min-replicas-to-write is {least}", count=asked)


def _redis_clock(_: Wanted, server: ServerFacts) -> Iterator[Finding]:
    yield from _skew(place_of(server), server.skew_us, server.round_trip_us)


def _skew(place: str, skew_us: int, round_trip_us: int) -> Iterator[Finding]:
    # What the round trip may have added is no skew.
    certain_us = abs(skew_us) - round_trip_us // 2
    if certain_us > SKEW_WARNING_US:
        severity: Severity = "fatal" if certain_us > SKEW_FATAL_US else "warning"
        direction = "ahead of" if skew_us > 0 else "behind"
        millis = abs(skew_us) // 1000
        found = f"its clock is {millis // 1000}.{millis % 1000:03d} s {direction} this host's"
        yield finding("clock-skew", severity, place, found)


def _client(facts: Facts) -> Iterator[Finding]:
    if facts.redis.client_retries:
        yield finding("client-retries", "fatal", "redis-py", f"up to {facts.redis.client_retries} retries")
    timeout_ms, idle_ms = facts.redis.command_timeout_ms, facts.wanted.claim_idle_ms
    if timeout_ms >= idle_ms:
        found = f"ORDERTAPE_CLAIM_IDLE_MS is {idle_ms}, the time-out {timeout_ms} ms"
        yield finding("client-timeout", "fatal", _SETTINGS, found, least_ms=timeout_ms + 1)


def _store(facts: Facts) -> Iterator[Finding]:
    records = facts.redis.records
    present = [record for record in records if record is not None]
    held = facts.database.store if facts.database is not None else None
    counts = {"Redis": present[0].partitions} if present else {}
    if held is not None:
        counts[_POSTGRES] = held[1]
    for place, count in counts.items():
        if count != facts.wanted.partitions:
            found = f"created with {count} partitions, the settings say {facts.wanted.partitions}"
            yield finding("partition-count", "fatal", place, found, partitions=count)
    if not present and held is not None:
        yield finding("store-lost", "fatal", "Redis", f"no store; PostgreSQL knows {held[0]}")
    yield from _records(facts)
    if present and held is not None and held[0] != present[0].store_id:
        found = f"read model of store {held[0]}, Redis has {present[0].store_id}"
        yield finding("store-id", "fatal", _POSTGRES, found)


def _records(facts: Facts) -> Iterator[Finding]:
    records = facts.redis.records
    present = [record for record in records if record is not None]
    # A store of fewer partitions than the settings name lacks nothing.
    missing = [number for number, record in enumerate(records) if record is None]
    missing = [number for number in missing if present and number < present[0].partitions]
    if missing:
        yield finding("store-incomplete", "fatal", "Redis", f"no records of partition {', '.join(map(str, missing))}")
    names = sorted({record.store_id for record in present})
    if len(names) > 1:
        yield finding("store-mixed", "fatal", "Redis", f"stores {', '.join(names)}")


def _database(facts: Facts) -> Iterator[Finding]:
    if facts.database_encoding is not None:
        yield finding("postgres-encoding", "fatal", _POSTGRES, f"encoding {facts.database_encoding}")
    if facts.database is not None:
        yield from _postgres(facts, facts.database)
        yield from _schema(facts.database)


def _postgres(facts: Facts, database: DatabaseFacts) -> Iterator[Finding]:
    found = f"version {database.version}"
    if database.version_number < OLDEST_POSTGRES:
        yield finding("postgres-old", "fatal", _POSTGRES, found)
    else:
        yield finding("postgres-version", "note", _POSTGRES, found)
    if database.encoding != "UTF8":
        yield finding("postgres-encoding", "fatal", _POSTGRES, f"encoding {database.encoding}")
    if database.fsync != "on":
        yield finding("postgres-fsync", "fatal", _POSTGRES, f"fsync is {database.fsync}")
    if database.synchronous_commit == "off":
        severity: Severity = "fatal" if _is_witness(facts) else "warning"
        yield finding("synchronous-commit", severity, _POSTGRES, "synchronous_commit is off")
    yield from _skew(_POSTGRES, database.skew_us, database.round_trip_us)


def _is_witness(facts: Facts) -> bool:
    """Return whether some level rests on a commit of PostgreSQL."""
    return WITNESSED in facts.wanted.levels


def _schema(database: DatabaseFacts) -> Iterator[Finding]:
    newest = database.schemas_known[0]
    if database.schema is None:
        yield finding("schema-empty", "note", _POSTGRES, "no schema yet")
    elif database.is_later:
        yield finding("schema-later", "note", _POSTGRES, f"schema {database.schema}, this code knows {newest}")
    elif database.schema not in database.schemas_known:
        yield finding("schema-unknown", "fatal", _POSTGRES, f"schema {database.schema}, this code knows {newest}")
    elif database.schema != newest:
        yield finding("schema-behind", "fatal", _POSTGRES, f"schema {database.schema}, this code needs {newest}")


def _orders(facts: Facts) -> Iterator[Finding]:
    if facts.orders is None:
        yield finding("orders-checked", "note", "orders", "not looked at, for want of one store that fits the settings")
        return
    if facts.orders.stuck:
        found = f"{facts.orders.stuck} of {facts.orders.checked} open orders"
        yield finding("orders-stuck", "warning", "orders", found)
    if facts.orders.parked:
        yield finding("tasks-parked", "warning", "orders", _count(facts.orders.parked, "parked task"))
    if facts.orders.quarantined:
        found = _count(facts.orders.quarantined, "quarantined order")
        yield finding("orders-quarantined", "warning", _POSTGRES, found)
    for each in facts.orders.stopped:
        yield finding("projection-stopped", "warning", _POSTGRES, f"partition {each.partition}: {each.problem}")
    extent = "the oldest" if facts.orders.is_sample else "all there are"
    yield finding(
        "orders-checked", "note", "orders", f"looked at {_count(facts.orders.checked, 'open order')}, {extent}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


_SERVER_RULES: Final[tuple[ServerRule, ...]] = (
    _redis_version,
    _hidden,
    _memory,
    _append_only_file,
    _replication,
    _redis_clock,
)
_RULES: Final[tuple[Rule, ...]] = (_servers, _waitaof, _client, _store, _database, _orders)

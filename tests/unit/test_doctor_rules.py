"""The doctor's rules: each fault found by itself, at its severity, with what mends it; and nothing else."""

import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from app.audit.doctor.errors import refusal
from app.audit.doctor.facts import Facts, OrderFacts, Wanted
from app.audit.doctor.findings import KINDS, Finding, Severity
from app.audit.doctor.rules import judge
from eventstore.levels import FSYNC, MEMORY, WITNESSED, Level
from eventstore.redis.inspection import CONFIGURED, RedisFacts, ServerFacts, StoreRecord
from projections.projector.standing import Stopped
from projections.schema.inspection import DatabaseFacts

PAGE = Path(__file__).parents[2] / "docs" / "doctor.md"

SERVER = ServerFacts(
    address="127.0.0.1:6379",
    software="Redis",
    version="7.2.6",
    redis_version=(7, 2, 6),
    replicas=0,
    is_cluster=False,
    used_memory=80,
    maxmemory=100,
    config={
        "maxmemory-policy": "noeviction",
        "appendonly": "yes",
        "appendfsync": "always",
        "aof-load-truncated": "yes",
        "min-replicas-to-write": "0",
        "stream-node-max-bytes": "1024",
    },
    hidden=(),
    skew_us=0,
    round_trip_us=200,
)
DATABASE = DatabaseFacts(
    version="13.0",
    version_number=130_000,
    encoding="UTF8",
    fsync="on",
    synchronous_commit="on",
    schema="0002",
    schemas_known=("0002", "0001"),
    store=("s1", 2),
    skew_us=0,
    round_trip_us=200,
)
RECORD = StoreRecord("s1", 2)
WANTED = Wanted(ack_level=FSYNC, intent_level=WITNESSED, partitions=2, claim_idle_ms=8_000)
REDIS = RedisFacts(servers=(SERVER,), records=(RECORD, RECORD), client_retries=0, command_timeout_ms=5_000)
ORDERS = OrderFacts(checked=3, stuck=0, is_sample=False, parked=0)
FACTS = Facts(wanted=WANTED, redis=REDIS, database=DATABASE, orders=ORDERS)
HEALTHY = {("redis-version", "note"), ("waitaof-probe", "note"), ("postgres-version", "note")}
HEALTHY |= {("orders-checked", "note")}


def wanting(facts: Facts = FACTS, **changes: object) -> Facts:
    return replace(facts, wanted=replace(facts.wanted, **changes))


def with_redis(facts: Facts = FACTS, **changes: object) -> Facts:
    return replace(facts, redis=replace(facts.redis, **changes))


def with_server(facts: Facts = FACTS, **changes: object) -> Facts:
    return with_redis(facts, servers=(replace(facts.redis.servers[0], **changes),))


def with_config(facts: Facts = FACTS, **changes: str) -> Facts:
    named = {name.replace("_", "-"): value for name, value in changes.items()}
    return with_server(facts, config={**facts.redis.servers[0].config, **named})


def without_config(*names: str, facts: Facts = FACTS) -> Facts:
    config = {name: value for name, value in facts.redis.servers[0].config.items() if name not in names}
    return with_server(facts, config=config, hidden=names)


def with_database(facts: Facts = FACTS, **changes: object) -> Facts:
    assert facts.database is not None
    return replace(facts, database=replace(facts.database, **changes))


def probed(duration_ms: int, ack_level: Level = FSYNC) -> Facts:
    return wanting(replace(with_config(appendfsync="everysec"), probe_ms=duration_ms), ack_level=ack_level)


MEMORY_ONLY = wanting(ack_level=MEMORY)
TWO_REPLICAS = wanting(
    with_config(with_server(replicas=2), min_replicas_to_write="2"), ack_level=Level.parse("replicated:2")
)

OLD = with_server(version="7.0.15", redis_version=(7, 0, 15))

FAULTS: list[tuple[str, Severity, Facts]] = [
    ("redis-old", "fatal", with_server(redis_version=(6, 0, 20))),
    ("config-hidden", "warning", without_config("stream-node-max-bytes")),
    ("config-hidden", "fatal", without_config("appendfsync")),
    ("config-hidden", "warning", without_config(*CONFIGURED, facts=MEMORY_ONLY)),
    ("config-hidden", "fatal", without_config("appendfsync", facts=wanting(MEMORY_ONLY, intent_level=FSYNC))),
    ("eviction-policy", "fatal", with_config(maxmemory_policy="allkeys-lru")),
    ("eviction-policy", "fatal", with_config(maxmemory_policy="volatile-ttl")),
    ("memory-short", "warning", with_server(used_memory=81)),
    ("node-max-bytes", "warning", with_config(stream_node_max_bytes="1025")),
    ("node-max-bytes", "warning", with_config(stream_node_max_bytes="0")),
    ("aof-off", "fatal", with_config(appendonly="no")),
    ("aof-off", "warning", with_config(MEMORY_ONLY, appendonly="no")),
    ("aof-off", "warning", with_config(wanting(ack_level=WITNESSED), appendonly="no")),
    ("aof-off", "fatal", with_config(wanting(MEMORY_ONLY, intent_level=FSYNC), appendonly="no")),
    ("aof-off", "fatal", with_config(TWO_REPLICAS, appendonly="no")),
    ("aof-fsync", "fatal", with_config(appendfsync="no")),
    ("aof-fsync", "warning", with_config(MEMORY_ONLY, appendfsync="no")),
    ("aof-fsync", "fatal", with_config(OLD, appendfsync="everysec")),
    ("waitaof-dishonest", "fatal", probed(1_500)),
    ("waitaof-dishonest", "warning", probed(3, MEMORY)),
    ("aof-truncated", "warning", with_config(aof_load_truncated="no")),
    ("intent-level", "fatal", with_server(wanting(intent_level=FSYNC), replicas=1)),
    ("intent-level", "fatal", with_server(wanting(intent_level=MEMORY), is_cluster=True)),
    ("intent-level", "fatal", wanting(TWO_REPLICAS, intent_level=Level.parse("replicated:2"))),
    ("replicas-few", "fatal", with_server(TWO_REPLICAS, replicas=1)),
    ("min-replicas", "note", with_config(TWO_REPLICAS, min_replicas_to_write="1")),
    ("client-retries", "fatal", with_redis(client_retries=1)),
    ("client-timeout", "fatal", wanting(claim_idle_ms=5_000)),
    ("clock-skew", "warning", with_server(skew_us=1_000_101)),
    ("clock-skew", "warning", with_server(skew_us=-30_000_100)),
    ("clock-skew", "fatal", with_server(skew_us=-30_000_101)),
    ("clock-skew", "fatal", with_database(skew_us=30_000_101)),
    ("partition-count", "fatal", with_redis(wanting(partitions=1), records=(RECORD,))),
    ("partition-count", "fatal", with_redis(wanting(partitions=3), records=(RECORD, RECORD, None))),
    ("partition-count", "fatal", with_database(store=("s1", 4))),
    ("store-incomplete", "fatal", with_redis(records=(RECORD, None))),
    ("store-incomplete", "fatal", with_redis(records=(None, RECORD))),
    ("store-mixed", "fatal", with_redis(records=(RECORD, StoreRecord("s2", 2)))),
    ("store-id", "fatal", with_database(store=("s2", 2))),
    ("store-lost", "fatal", with_redis(records=(None, None))),
    ("postgres-old", "fatal", with_database(version_number=129_999)),
    ("postgres-encoding", "fatal", with_database(encoding="LATIN1")),
    ("postgres-encoding", "fatal", replace(FACTS, database=None, database_encoding="SQL_ASCII")),
    ("postgres-fsync", "fatal", with_database(fsync="off")),
    ("synchronous-commit", "warning", with_database(wanting(intent_level=FSYNC), synchronous_commit="off")),
    ("synchronous-commit", "fatal", with_database(wanting(ack_level=WITNESSED), synchronous_commit="off")),
    ("synchronous-commit", "fatal", with_database(wanting(intent_level=WITNESSED), synchronous_commit="off")),
    ("schema-empty", "note", with_database(schema=None)),
    ("schema-behind", "fatal", with_database(schema="0001")),
    ("schema-later", "note", with_database(schema="9999", oldest="0001")),
    ("schema-later", "note", with_database(schema="9999", oldest="0002")),
    ("schema-unknown", "fatal", with_database(schema="9999")),
    ("schema-unknown", "fatal", with_database(schema="9999", oldest="0003")),
    ("tasks-parked", "warning", replace(FACTS, orders=OrderFacts(checked=3, stuck=0, is_sample=False, parked=2))),
    ("orders-quarantined", "warning", replace(FACTS, orders=replace(ORDERS, quarantined=1))),
    ("projection-stopped", "warning", replace(FACTS, orders=replace(ORDERS, stopped=(Stopped(1, "fork"),)))),
    ("orders-stuck", "warning", replace(FACTS, orders=OrderFacts(checked=3, stuck=1, is_sample=True, parked=0))),
]

NO_FAULTS: list[Facts] = [
    FACTS,
    MEMORY_ONLY,
    TWO_REPLICAS,
    probed(1_501),
    with_redis(with_database(store=None), records=(None, None)),
    with_server(wanting(intent_level=WITNESSED), replicas=1),
    wanting(intent_level=FSYNC),
    with_server(maxmemory=0, used_memory=1 << 40),
    with_server(skew_us=1_000_100),
    with_server(skew_us=2_000_000, round_trip_us=2_000_000),
    wanting(claim_idle_ms=5_001),
    with_server(redis_version=(6, 2)),
    with_config(stream_node_max_bytes="512"),
    with_database(synchronous_commit="local"),
    replace(FACTS, orders=None),
    replace(FACTS, database=None),
]


def told(facts: Facts) -> set[tuple[str, Severity]]:
    return {(each.id, each.severity) for each in judge(facts)}


def faults(facts: Facts) -> list[Finding]:
    return [each for each in judge(facts) if (each.id, each.severity) not in HEALTHY]


@pytest.mark.parametrize(("name", "severity", "facts"), FAULTS, ids=lambda part: part if isinstance(part, str) else "")
def test_each_fault_is_found_by_itself_at_its_severity(name: str, severity: Severity, facts: Facts) -> None:
    assert {(each.id, each.severity) for each in faults(facts)} == {(name, severity)}


@pytest.mark.parametrize("facts", NO_FAULTS)
def test_what_is_in_order_has_notes_alone(facts: Facts) -> None:
    assert faults(facts) == []


def test_healthy_servers_are_told_by_notes() -> None:
    for facts in (FACTS, probed(1_501), replace(FACTS, orders=None)):
        assert told(facts) == HEALTHY


def test_every_kind_of_finding_and_every_severity_is_made() -> None:
    made = {pair for _, _, facts in FAULTS for pair in told(facts)} | HEALTHY
    assert made == {(name, severity) for name, kind in KINDS.items() for severity in kind.severities}


def test_whatever_is_wrong_comes_with_what_mends_it() -> None:
    for _, _, facts in FAULTS:
        for each in faults(facts):
            assert each.fix, each
            assert "{" not in each.fix, each


@pytest.mark.parametrize(
    ("facts", "fix"),
    [
        (with_config(maxmemory_policy="allkeys-lru"), "CONFIG SET maxmemory-policy noeviction"),
        (with_config(appendonly="no"), "CONFIG SET appendonly yes, or ACK_LEVEL=memory to accept that"),
        (with_config(wanting(intent_level=FSYNC), appendonly="no"), "CONFIG SET appendonly yes"),
        (with_config(MEMORY_ONLY, appendonly="no"), "CONFIG SET appendonly yes"),
        (with_config(TWO_REPLICAS, min_replicas_to_write="0"), "CONFIG SET min-replicas-to-write 2"),
        (with_database(store=("s1", 4)), "ORDERTAPE_PARTITIONS=4"),
        (wanting(claim_idle_ms=100), "ORDERTAPE_CLAIM_IDLE_MS=5001"),
    ],
)
def test_the_fix_fits_the_fault(facts: Facts, fix: str) -> None:
    assert [each.fix for each in faults(facts)] == [fix]


def test_every_master_is_judged() -> None:
    evicting = {**SERVER.config, "maxmemory-policy": "allkeys-lru"}
    second = replace(SERVER, address="127.0.0.1:6380", config=evicting)
    assert [each.place for each in faults(with_redis(servers=(SERVER, second)))] == ["Redis 127.0.0.1:6380"]


def test_the_worst_comes_first() -> None:
    facts = with_database(with_config(with_server(used_memory=90), maxmemory_policy="allkeys-lru"), fsync="off")
    assert [each.severity for each in judge(facts)] == ["fatal", "fatal", "warning", *["note"] * 4]


def test_a_skew_is_told_with_its_size_and_direction() -> None:
    assert [each.found for each in faults(with_server(skew_us=-2_500_000))] == [
        "its clock is 2.500 s behind this host's"
    ]
    assert [each.found for each in faults(with_server(skew_us=61_002_000))] == [
        "its clock is 61.002 s ahead of this host's"
    ]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (FACTS, "appendfsync is always"),
        (without_config("appendfsync"), "appendfsync is hidden"),
        (with_config(appendonly="no", appendfsync="everysec"), "there is no append-only file"),
        (with_config(OLD, appendfsync="everysec"), "version 7.0.15 has no WAITAOF"),
    ],
)
def test_a_probe_that_did_not_run_says_why(facts: Facts, reason: str) -> None:
    notes = {each.id: each.found for each in judge(facts)}
    assert notes["waitaof-probe"] == f"not probed: {reason}"


def test_a_sample_of_the_orders_says_that_it_is_one() -> None:
    sampled = replace(FACTS, orders=OrderFacts(checked=10_000, stuck=0, is_sample=True, parked=0))
    notes = {each.id: each.found for each in judge(sampled)}
    assert notes["orders-checked"] == "looked at 10000 open orders, the oldest"


def test_a_refusal_names_each_reason_and_what_mends_it() -> None:
    text = refusal(faults(with_database(with_config(appendonly="no"), fsync="off")))
    assert text.splitlines()[1:-1] == [
        "  aof-off: Redis 127.0.0.1:6379: appendonly is no; "
        "a crash of the server loses every order since its last snapshot",
        "    fix: CONFIG SET appendonly yes, or ACK_LEVEL=memory to accept that",
        "  postgres-fsync: PostgreSQL: fsync is off; "
        "a crash of the machine may destroy the whole database, the archive included",
        "    fix: ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf();",
    ]


def test_the_page_lists_exactly_the_findings_there_are() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| (.*) \| (.*) \| (.*) \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.M)
    assert rows == [
        (name, ", ".join(kind.severities), kind.meaning, kind.consequence, _fix_on_page(kind.fix))
        for name, kind in KINDS.items()
    ]


def _fix_on_page(fix: str) -> str:
    """Parts that depend on what was found stand in angle brackets; the choice of a lesser level is the page's text."""
    plain = fix.replace("{or_level}", "").replace("; {setting}", "")
    named = re.sub(r"{(.*?)}", r"<\1>", plain)
    return f"`{named}`" if named else "–"

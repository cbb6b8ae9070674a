"""Settings: what is accepted, what is refused, and that each refusal names the setting and what would be valid."""

from pathlib import Path

import msgspec
import pytest

from app.dex.errors import UnknownProfileError
from app.dex.profile import profile_named
from app.main import access_policy
from app.settings import DEFAULTS, NAMES, PROFILES, SettingsError, load_settings
from eventstore.levels import FSYNC, WITNESSED, replicated

ROOT = Path(__file__).parents[2]


def test_nothing_set_gives_the_defaults_and_embedded_servers() -> None:
    settings = load_settings({"PATH": "/bin", "HOME": "/root"})
    assert settings == DEFAULTS
    assert (settings.redis_url, settings.database_url, settings.port) == (None, None, 3000)


def test_the_names_of_source_a_make_urls() -> None:
    settings = load_settings(
        {
            "REDIS_HOST": "cache",
            "REDIS_PORT": "6380",
            "REDIS_USERNAME": "u",
            "REDIS_PASSWORD": "p@ss/word",
            "PG_HOST": "db",
            "PG_PORT": "5433",
            "PG_USER": "trader",
            "PG_PASSWORD": "s:cret",
            "PG_DB": "orders",
            "PORT": "4000",
            "HOST": "0.0.0.0",
        }
    )
    assert settings.redis_url == "redis://u:p%40ss%2Fword@cache:6380/0"
    assert settings.database_url == "postgresql+psycopg://trader:s%3Acret@db:5433/orders"
    assert (settings.host, settings.port) == ("0.0.0.0", 4000)


@pytest.mark.parametrize("url", ["redis://h/0", "rediss://u:p@h:6380/1", "unix:///run/redis.sock"])
def test_redis_urls_of_every_kind_are_taken_as_they_are(url: str) -> None:
    assert load_settings({"REDIS_URL": url}).redis_url == url


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_database_urls_name_the_driver(scheme: str) -> None:
    settings = load_settings({"DATABASE_URL": f"{scheme}://u@h/d"})
    assert settings.database_url == "postgresql+psycopg://u@h/d"


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=4000\nORDERTAPE_SEED=abc\n# comment\n")
    settings = load_settings({"PORT": "5000"}, tmp_path / ".env")
    assert (settings.port, settings.seed) == (5000, "abc")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"PORT": "http"}, "PORT must be a whole number from 0 to 65535"),
        ({"PORT": "70000"}, "PORT must be a whole number from 0 to 65535"),
        ({"ACK_LEVEL": "always"}, "ACK_LEVEL must be memory, fsync, replicated:1 to"),
        ({"INTENT_LEVEL": "replicated:0"}, "INTENT_LEVEL must be memory, fsync, replicated:1 to"),
        ({"ORDERTAPE_STORE_EPOCH": "0"}, "ORDERTAPE_STORE_EPOCH must be a whole number from 1"),
        ({"ORDERTAPE_ARCHIVE_SECONDS": "10"}, "ORDERTAPE_ARCHIVE_SECONDS must be a whole number from"),
        ({"REDIS_URL": "http://h"}, "REDIS_URL must be a redis://, rediss:// or unix:// address"),
        ({"REDIS_URL": "redis://h", "REDIS_HOST": "h"}, "REDIS_URL and REDIS_HOST exclude each other"),
        ({"REDIS_HOST": "h", "REDIS_PORT": "tcp://1"}, "REDIS_PORT must be a whole number"),
        ({"DATABASE_URL": "mysql://h/d"}, "DATABASE_URL must be a postgresql:// address"),
        ({"DATABASE_URL": "postgres://h/d", "PG_DB": "d"}, "DATABASE_URL and PG_DB exclude each other"),
        ({"ORDERTAPE_PARTITIONS": "101"}, "ORDERTAPE_PARTITIONS must be a whole number from 1 to 100"),
        ({"ORDERTAPE_SPEED": "fast"}, "ORDERTAPE_SPEED must be a decimal"),
        ({"ORDERTAPE_PROFILE": "minor"}, "ORDERTAPE_PROFILE must be assignment, major or longtail, not 'minor'"),
        ({"ORDERTAPE_QUEUE_MAX": "0"}, "ORDERTAPE_QUEUE_MAX must be a whole number from 1"),
        ({"ORDERTAPE_VENUE_FAILURES_MAX": "0"}, "ORDERTAPE_VENUE_FAILURES_MAX must be a whole number from 1"),
        ({"ORDERTAPE_ORDERS_PER_MINUTE": "-1"}, "ORDERTAPE_ORDERS_PER_MINUTE must be a whole number from 0"),
        ({"ORDERTAPE_NAMESPACE": "a:b"}, "ORDERTAPE_NAMESPACE must be 1 to 32 ASCII letters and digits"),
        ({"ORDERTAPE_PARTITONS": "4"}, "ORDERTAPE_PARTITONS is not a setting of OrderTape; did you mean"),
        ({"ORDERTAPE_AUTH": "none"}, "ORDERTAPE_AUTH must be open or keys, not 'none'"),
        ({"ORDERTAPE_ALLOWED_ORIGINS": "*"}, "ORDERTAPE_ALLOWED_ORIGINS must be origins with commas between them"),
        ({"ORDERTAPE_ALLOWED_ORIGINS": "https://a/b"}, "ORDERTAPE_ALLOWED_ORIGINS must be origins with commas"),
        ({"ORDERTAPE_KEY": "secret"}, "ORDERTAPE_KEY must be a key as ordertape keys create prints it"),
        ({"ORDERTAPE_REQUESTS_PER_SECOND": "-1"}, "ORDERTAPE_REQUESTS_PER_SECOND must be a whole number from 0"),
        ({"ORDERTAPE_TASK_MS": "9000"}, "ORDERTAPE_TASK_MS (9000) must be below ORDERTAPE_CLAIM_IDLE_MS (8000)"),
        ({"ORDERTAPE_QUOTE_TIMEOUT_MS": "5000"}, "ORDERTAPE_QUOTE_TIMEOUT_MS (5000) must be below ORDERTAPE_TASK_MS"),
    ],
)
def test_a_refused_setting_is_named_with_what_would_be_valid(given: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(given)
    assert any(problem.startswith(named) for problem in refused.value.problems), refused.value.problems


def test_an_unknown_name_in_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("REDIS_HOTS=cache\n")
    with pytest.raises(SettingsError, match="REDIS_HOTS is not a setting of OrderTape; did you mean REDIS_HOST"):
        load_settings({}, tmp_path / ".env")


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings({"PORT": "x", "ACK_LEVEL": "y"})
    assert len(refused.value.problems) == 2


@pytest.mark.parametrize(("text", "ppm"), [("0", 0), ("1", 1_000_000), ("0.5", 500_000), ("20", 20_000_000)])
def test_speeds_are_exact(text: str, ppm: int) -> None:
    assert load_settings({"ORDERTAPE_SPEED": text}).speed_ppm == ppm


def test_flow_control_is_set_by_names_of_its_own() -> None:
    settings = load_settings(
        {
            "ORDERTAPE_VENUE_CONCURRENCY": "1",
            "ORDERTAPE_VENUE_FAILURES_MAX": "2",
            "ORDERTAPE_VENUE_OPEN_MS": "3",
            "ORDERTAPE_QUEUE_MAX": "4",
            "ORDERTAPE_CLIENT_ORDERS_PER_MINUTE": "5",
            "ORDERTAPE_ORDERS_PER_MINUTE": "6",
        }
    )
    assert (settings.venue_concurrency, settings.venue_failures_max, settings.venue_open_ms) == (1, 2, 3)
    assert (settings.queue_max, settings.client_orders_per_minute, settings.orders_per_minute) == (4, 5, 6)


def test_limits_of_keys_and_addresses_are_on_with_keys_and_off_without() -> None:
    names = ("REQUESTS_PER_SECOND", "KEY_CONNECTIONS", "ADDRESS_CONNECTIONS", "SOCKET_MESSAGES_PER_SECOND")
    chosen = {f"ORDERTAPE_{name}": str(number) for number, name in enumerate(names, 1)}
    for given, limits in (
        ({}, (0, 0, 0, 0)),
        ({"ORDERTAPE_AUTH": "keys"}, (500, 500, 1_000, 50)),
        (chosen, (1, 2, 3, 4)),
    ):
        assert msgspec.structs.astuple(access_policy(load_settings(given)).limits) == limits


def test_origins_are_a_list_in_lower_case() -> None:
    settings = load_settings({"ORDERTAPE_ALLOWED_ORIGINS": "https://Desk.example, http://localhost:8080"})
    assert settings.allowed_origins == ("https://desk.example", "http://localhost:8080")


def test_a_key_that_is_refused_is_not_repeated() -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings({"ORDERTAPE_KEY": "my secret"})
    assert "my secret" not in str(refused.value)


def test_the_profiles_are_those_of_the_simulation() -> None:
    with pytest.raises(UnknownProfileError) as unknown:
        profile_named("minor")
    assert unknown.value.known == PROFILES
    for name in PROFILES:
        assert load_settings({"ORDERTAPE_PROFILE": name}).profile == name


def test_every_setting_is_documented() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    assert [name for name in NAMES if f"`{name}`" not in page] == []


def test_an_intent_rests_on_the_disk_of_the_embedded_server_and_on_postgresql_behind_any_other() -> None:
    assert load_settings({}).intent == FSYNC
    assert load_settings({"REDIS_URL": "redis://h"}).intent == WITNESSED
    assert load_settings({"REDIS_URL": "redis://h", "INTENT_LEVEL": "fsync"}).intent == FSYNC
    assert load_settings({"INTENT_LEVEL": "replicated:2"}).intent == replicated(2)

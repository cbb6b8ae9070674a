"""The embedded servers, as real processes: what they promise, and whom they refuse."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from app.embedded import EmbeddedError, Servers, embedded_servers
from tests.integration.engines import (
    BOTH,
    ROOT,
    deserted,
    pids,
    postgres,
    processes_in,
    read_both,
    short_directory,
    using,
    valkey,
    write_both,
)

as_root = pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="about root on Linux")


@pytest.fixture
def base() -> Iterator[Path]:
    with short_directory() as path:
        yield path


def test_the_servers_stop_with_their_context_and_a_second_start_finds_the_data(base: Path) -> None:
    using(base / "data", write_both)
    assert deserted(base / "data")
    assert processes_in(base) == {}
    assert list((base / "data").glob("*.pid")) == []
    assert using(base / "data", read_both) == BOTH


def test_the_data_directory_is_private_and_nothing_beside_it_is_made(base: Path) -> None:
    mode = base.stat().st_mode
    using(base / "new", lambda servers: None)
    (base / "empty").mkdir(mode=0o755)
    using(base / "empty", lambda servers: None, postgres=False)
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in base.iterdir()} == {"new": 0o700, "empty": 0o700}
    assert base.stat().st_mode == mode


def test_valkey_is_durable_never_evicts_and_listens_on_its_socket_alone(base: Path) -> None:
    names = (
        "appendonly",
        "appendfsync",
        "save",
        "maxmemory-policy",
        "stream-node-max-bytes",
        "aof-load-truncated",
        "port",
    )
    settings = using(base, lambda servers: valkey(servers).config_get(*names), postgres=False)
    assert settings == {
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "maxmemory-policy": "noeviction",
        "stream-node-max-bytes": "1024",
        "aof-load-truncated": "yes",
        "port": "0",
    }


def test_postgres_is_durable_speaks_utf8_and_listens_on_its_socket_alone(base: Path) -> None:
    expected = {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "max_connections": "50",
        "server_encoding": "UTF8",
        "listen_addresses": "",
        "TimeZone": "UTC",
    }
    query = (
        "SELECT current_database(), datcollate, current_setting('server_version_num')::int / 10000"
        " FROM pg_database WHERE datname = current_database()"
    )

    def look(servers: Servers) -> tuple[dict[str, object], object]:
        with postgres(servers) as connection:
            shown = {name: connection.execute(f"SHOW {name}").fetchone() for name in expected}
            return {name: row and row[0] for name, row in shown.items()}, connection.execute(query).fetchone()

    assert using(base, look) == (expected, ("ordertape", "C", 18))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_servers_see_nothing_of_the_callers_environment(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "of the caller")

    def look(servers: Servers) -> bytes:
        return b"".join(Path(f"/proc/{pids(base)[name]}/environ").read_bytes() for name in ("valkey", "postgres"))

    assert b"of the caller" not in using(base, look)


def test_valkey_can_be_had_alone(base: Path) -> None:
    servers = using(base / "data", lambda servers: servers, postgres=False)
    assert servers == Servers(f"unix://{base}/data/valkey.sock", None)
    assert not (base / "data" / "postgres").exists()


def deep(base: Path, socket_name: str, length: int) -> Path:
    """A data directory in which the socket's path has this many bytes."""
    return base / ("d" * (length - len(f"{base}//{socket_name}")))


@pytest.mark.parametrize(
    ("socket_name", "length", "schemes"),
    [
        (".s.PGSQL.5432", 100, ("unix://", "postgresql+psycopg://ordertape@/")),
        (".s.PGSQL.5432", 101, ("unix://", "postgresql+psycopg://ordertape:")),
        ("valkey.sock", 101, ("redis://:", "postgresql+psycopg://ordertape:")),
    ],
)
def test_each_server_leaves_its_socket_for_loopback_only_beyond_100_bytes(
    base: Path, socket_name: str, length: int, schemes: tuple[str, str]
) -> None:
    data_dir = deep(base, socket_name, length)

    def write(servers: Servers) -> tuple[bool, bool]:
        write_both(servers)
        assert servers.database_url is not None
        return servers.redis_url.startswith(schemes[0]), servers.database_url.startswith(schemes[1])

    assert using(data_dir, write) == (True, True)
    assert using(data_dir, read_both) == BOTH


def test_loopback_refuses_a_wrong_password_and_a_missing_one(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "require")

    def attempt(servers: Servers) -> None:
        assert servers.database_url is not None
        password = (base / ("d" * 100) / "password").read_text()
        assert f":{password}@127.0.0.1:" in servers.redis_url
        assert f":{password}@127.0.0.1:" in servers.database_url
        for wrong in (f":{password[::-1]}@", ""):
            url = servers.redis_url.replace(f":{password}@", wrong)
            with redis.Redis.from_url(url) as client, pytest.raises(redis.AuthenticationError):
                client.ping()
        postgres(servers).close()
        for wrong in (password[::-1], ""):
            with pytest.raises(psycopg.OperationalError, match="password"):
                postgres(Servers("", servers.database_url.replace(password, wrong)))

    using(base / ("d" * 100), attempt)


def test_a_moved_data_directory_keeps_its_data_and_the_way_in(base: Path) -> None:
    using(base / "data", write_both)
    (base / "data").rename(base / ("d" * 100))
    assert using(base / ("d" * 100), read_both) == BOTH
    (base / ("d" * 100)).rename(base / "a b,c%d\"e'f\\g")
    assert using(base / "a b,c%d\"e'f\\g", read_both) == BOTH


def test_a_second_engine_is_refused_by_directory_and_pid_while_the_first_goes_on(base: Path) -> None:
    def intrude(servers: Servers) -> object:
        result = subprocess.run(
            [sys.executable, "-m", "app.embedded", "--data-dir", str(base)], cwd=ROOT, capture_output=True, text=True
        )
        assert result.returncode == 1
        error = json.loads(result.stdout)["error"]
        assert str(base) in error
        assert f"process {os.getpid()} " in error
        return valkey(servers).ping()

    assert using(base, intrude, postgres=False) is True


def test_a_directory_that_holds_something_else_is_refused_and_left_as_it_is(base: Path) -> None:
    (base / "letters").mkdir()
    (base / "letters" / "dear").write_text("reader")
    mode = (base / "letters").stat().st_mode
    with pytest.raises(EmbeddedError, match="not a data directory"):
        using(base / "letters", lambda servers: None)
    assert [path.name for path in (base / "letters").iterdir()] == ["dear"]
    assert (base / "letters").stat().st_mode == mode


def test_a_symbolic_link_in_place_of_a_file_of_ours_is_not_followed(base: Path) -> None:
    using(base / "data", lambda servers: None, postgres=False)
    (base / "data" / "servers.lock").unlink()
    (base / "data" / "servers.lock").symlink_to(base / "elsewhere")
    with pytest.raises(EmbeddedError, match=r"servers\.lock"):
        using(base / "data", lambda servers: None, postgres=False)
    assert not (base / "elsewhere").exists()


def test_a_server_that_cannot_start_shows_the_end_of_its_log_and_takes_the_other_one_with_it(base: Path) -> None:
    using(base, lambda servers: None)
    (manifest,) = base.glob("valkey/appendonlydir/*.manifest")
    manifest.write_text("nonsense\n")
    with pytest.raises(EmbeddedError, match=r"(?s)valkey ended with status 1.*valkey\.log.*manifest"):
        using(base, lambda servers: None)
    assert deserted(base)


def test_a_server_that_is_too_slow_is_named_and_none_is_left(base: Path) -> None:
    async def hurried() -> None:
        async with embedded_servers(base, start_timeout_seconds=0):
            pass

    with pytest.raises(EmbeddedError, match="in time"):
        asyncio.run(hurried())
    assert deserted(base)


def test_a_failing_body_stops_the_servers_and_keeps_its_own_error(base: Path) -> None:
    def fail(servers: Servers) -> None:
        raise LookupError("of the body")

    with pytest.raises(LookupError, match="of the body"):
        using(base, fail, postgres=False)
    assert deserted(base)


def user_and_namespace(pid: int) -> tuple[int, str]:
    return Path(f"/proc/{pid}").stat().st_uid, str(Path(f"/proc/{pid}/ns/user").readlink())


@as_root
def test_root_runs_postgres_as_nobody_where_nobody_has_access_and_else_in_a_namespace(base: Path) -> None:
    ours = str(Path("/proc/self/ns/user").readlink())
    nobody = pwd.getpwnam("nobody").pw_uid

    def look(servers: Servers) -> tuple[tuple[int, str], int, int]:
        assert read_both(servers) == BOTH
        owners = (base / "data" / "postgres").stat().st_uid, (base / "data").stat().st_uid
        return user_and_namespace(pids(base / "data")["postgres"]), *owners

    using(base / "data", write_both)
    base.chmod(0o755)
    assert using(base / "data", look) == ((nobody, ours), nobody, nobody)
    assert stat.S_IMODE((base / "data").stat().st_mode) == 0o700
    base.chmod(0o700)
    (user, namespace), *owners = using(base / "data", look)
    assert (user, *owners) == (0, 0, 0)
    assert namespace != ours
    base.chmod(0o755)
    assert using(base / "data", look) == ((nobody, ours), nobody, nobody)


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_root_without_any_other_identity_is_told_each_remedy(base: Path) -> None:
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", forbid, "sh"]
    command += [sys.executable, "-m", "app.embedded", "--data-dir", str(base / "data")]
    refusal = subprocess.run(command, cwd=ROOT, stdin=subprocess.PIPE, capture_output=True, text=True)
    assert refusal.returncode == 1, refusal.stderr
    error = json.loads(refusal.stdout)["error"]
    for remedy in ("accessible to other users", "unprivileged user namespaces", "ordinary user", "DATABASE_URL"):
        assert remedy in error
    assert deserted(base / "data")

"""The embedded servers when something is killed: no process is left, no other one is hit, no data is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from app.embedded import EmbeddedError, Servers
from app.embedded.processes import command_line
from tests.integration.engines import (
    BOTH,
    WAIT_SECONDS,
    crash_warden,
    deserted,
    engine,
    pids,
    processes_in,
    read_both,
    ready,
    short_directory,
    using,
    wait_until,
    write_both,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def base() -> Iterator[Path]:
    with short_directory() as path:
        yield path


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is none of ours."""
    with subprocess.Popen(["sleep", "300"]) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_when_a_signal_ends_the_engines_process_group(base: Path, number: signal.Signals) -> None:
    with engine(base) as process:
        ready(process)
        assert len(pids(base)) == 3
        assert process.pid not in [os.getpgid(pid) for pid in pids(base).values()]
        os.killpg(process.pid, number)
        process.wait(WAIT_SECONDS)
        wait_until(lambda: deserted(base) and processes_in(base) == {})
    assert list(base.glob("*.pid")) == []


def test_the_warden_stops_the_servers_when_it_is_told_to_end(base: Path) -> None:
    with engine(base, "valkey") as process:
        ready(process)
        os.kill(pids(base)["warden"], signal.SIGTERM)
        wait_until(lambda: deserted(base))
        assert process.poll() is None


def test_an_engine_killed_during_the_start_leaves_no_process(base: Path) -> None:
    with engine(base) as process:
        wait_until(lambda: (base / "initdb.pid").exists())
        process.kill()
        process.wait(WAIT_SECONDS)
        wait_until(lambda: deserted(base) and processes_in(base) == {})


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_start_waits_while_the_warden_of_a_killed_engine_stops_its_servers(base: Path) -> None:
    with engine(base, "valkey") as first:
        ready(first)
        warden = pids(base)["warden"]
        os.kill(warden, signal.SIGSTOP)
    try:
        with engine(base, "valkey") as second:
            wait_until(lambda: len(openers(base / "engine.lock") - {warden}) == 1)
            os.kill(warden, signal.SIGCONT)
            ready(second)
            assert pids(base)["warden"] != warden
    finally:
        with suppress(ProcessLookupError):
            os.kill(warden, signal.SIGCONT)


def openers(path: Path) -> set[int]:
    """The processes that have the file open."""
    found = set()
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if descriptor.readlink() == path:
                found.add(int(descriptor.parts[2]))
    return found


def test_a_start_after_the_warden_was_killed_stops_its_servers_and_keeps_the_data(base: Path) -> None:
    using(base, write_both)
    left = crash_warden(base)
    assert set(left) == {"valkey", "postgres"}

    def look(servers: Servers) -> tuple[object, object]:
        assert set(left.values()).isdisjoint(pids(base).values())
        assert [command_line(pid) for pid in left.values()] == ["", ""]
        return read_both(servers)

    assert using(base, look) == BOTH


def test_a_recorded_pid_that_another_program_got_is_not_killed(base: Path, bystander: subprocess.Popen[bytes]) -> None:
    left = crash_warden(base, "valkey")
    record = json.loads((base / "valkey.pid").read_bytes())
    recycled = record | {"pid": bystander.pid}
    (base / "postgres.pid").write_text(json.dumps(recycled))
    using(base, lambda servers: None, postgres=False)
    assert bystander.poll() is None
    assert left["valkey"] == record["pid"]


def test_a_pid_file_cut_off_by_a_crash_is_passed_over(base: Path) -> None:
    using(base, write_both)
    (base / "valkey.pid").write_bytes(b'{"pid": 12')
    assert using(base, read_both) == BOTH


@pytest.mark.slow
def test_an_unrecorded_server_keeps_the_next_one_from_starting(base: Path) -> None:
    left = crash_warden(base, "valkey")
    (base / "valkey.pid").unlink()
    with pytest.raises(EmbeddedError, match="no pid file there names it"):
        using(base, lambda servers: None, postgres=False)
    os.kill(left["valkey"], signal.SIGKILL)


def test_postgres_starts_although_another_program_got_the_pid_of_its_lock_file(
    base: Path, bystander: subprocess.Popen[bytes]
) -> None:
    # In a directory of the test's own, PostgreSQL runs with the test's rights and so could signal the bystander.
    data_dir = base / "data"
    using(data_dir, write_both)
    lines = f"{bystander.pid}\n{data_dir}/postgres\n1\n5432\n{data_dir}\n\n1 1\nready\n"
    for lock in (data_dir / "postgres" / "postmaster.pid", data_dir / ".s.PGSQL.5432.lock"):
        lock.write_text(lines)
        assert using(data_dir, read_both) == BOTH
    assert bystander.poll() is None


def test_a_postgres_that_somebody_else_runs_on_the_cluster_is_refused_and_spared(base: Path) -> None:
    using(base, write_both)
    command = [sys.executable, "-c", "input()", str(base / "postgres")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as stranger:
        (base / "postgres" / "postmaster.pid").write_text(f"{stranger.pid}\n")
        with pytest.raises(EmbeddedError, match=f"process {stranger.pid}"):
            using(base, lambda servers: None)
        assert stranger.poll() is None


def test_a_cluster_whose_making_was_cut_off_is_made_anew(base: Path) -> None:
    with engine(base) as process:
        wait_until(lambda: (base / "postgres.new" / "base").exists() and (base / "initdb.pid").exists())
        for name in ("warden", "initdb"):
            os.kill(pids(base)[name], signal.SIGKILL)
        process.kill()
    assert (base / "postgres.new").exists()
    assert not (base / "postgres").exists()
    using(base, write_both)
    assert using(base, read_both) == BOTH
    assert not (base / "postgres.new").exists()


def test_the_end_of_one_server_ends_the_other_one_and_is_reported(base: Path) -> None:
    def kill(servers: Servers) -> None:
        os.kill(pids(base)["valkey"], signal.SIGKILL)
        wait_until(lambda: deserted(base))

    with pytest.raises(EmbeddedError, match="valkey ended by itself with status -9"):
        using(base, kill)

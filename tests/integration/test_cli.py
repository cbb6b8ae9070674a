"""The command line as a person uses it: one engine, every command, and nothing left behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from app.cli.demo import free_port
from app.cli.main import app
from tests.integration.commands import command_here

START_SECONDS = 60
RUN_SECONDS = 60


class Engine:
    """A running ``ordertape up`` at twenty times the normal speed, and its commands."""

    def __init__(self, directory: Path) -> None:
        settings = {
            "ORDERTAPE_DATA_DIR": str(directory / "data"),
            "ORDERTAPE_SPEED": "20",
            "PORT": str(free_port()),
            "ORDERTAPE_LOG_LEVEL": "warning",
        }
        kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}
        self.environment = {**kept, **settings, "PYTHONPATH": str(Path(__file__).parents[2])}
        self.directory = directory

    def start(self) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli.main", "up"],
            env=self.environment,
            cwd=self.directory,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        for line in process.stderr:
            if "is running on" in line:
                return process
        raise AssertionError(f"the engine ended with {process.wait(START_SECONDS)}")

    def say(self, *command: str, status: int = 0) -> str:
        """The same as :meth:`run`, without a process of its own."""
        out, errors = command_here(self.environment, self.directory, *command, status=status)
        return out if status == 0 else errors + out

    def run(self, *command: str, status: int = 0) -> str:
        """Run a command and return what it prints; its error text where it is meant to fail."""
        done = subprocess.run(
            [sys.executable, "-m", "app.cli.main", *command],
            env=self.environment,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
        assert done.returncode == status, done.stderr + done.stdout
        return done.stdout if status == 0 else done.stderr + done.stdout


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    directory = Path(tempfile.mkdtemp(prefix="ot-"))
    engine = Engine(directory)
    process = engine.start()
    descendants = psutil.Process(process.pid).children(recursive=True)
    try:
        yield engine
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=START_SECONDS)
        _, left = psutil.wait_procs(descendants, timeout=10)
        shutil.rmtree(directory)
    assert process.returncode == 0
    assert left == []


def test_an_order_is_submitted_shown_and_found_again(engine: Engine) -> None:
    lines = [json.loads(line) for line in engine.run("submit", "buy", "2", "SOL", "USDC", "--json").splitlines()]
    assert lines[0]["event"] == "pending"
    assert lines[-1]["event"] in ("confirmed", "failed")
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    order_id = lines[0]["orderId"]
    again = [json.loads(line) for line in engine.say("watch", order_id, "--after", "3", "--json").splitlines()]
    assert again == lines[3:]
    assert engine.say("watch", order_id, "--after", str(len(lines)), "--json") == ""
    assert "confirmed" in engine.say("watch", order_id)


def test_a_repeated_key_is_the_same_order(engine: Engine) -> None:
    command = ("submit", "sell", "1", "SOL", "USDC", "--client", "me", "--key", "k1", "--detach")
    assert engine.say(*command) == engine.say(*command)


def test_a_refused_order_says_which_field_and_exits_2(engine: Engine) -> None:
    assert "amount" in engine.say("submit", "buy", "0", "SOL", "USDC", status=2)
    assert "side" in engine.say("submit", "hold", "1", "SOL", "USDC", status=2)


@pytest.mark.slow
def test_orders_of_every_type_end_as_their_terms_say(engine: Engine) -> None:
    far = ("submit", "buy", "1", "SOL", "USDC", "--limit", "1.50")
    assert "expireAt must be at most 366 days ahead" in engine.say(
        *far, "--expire-at", "2999-01-01T00:00:00Z", status=2
    )
    waiting = engine.say(*far, "--detach").strip()
    missed = engine.say("submit", "sell", "1", "SOL", "USDC", "--limit", "9999", "--tif", "ioc", status=1)
    assert "by engine: not filled at once, as IOC asks" in missed
    assert "at most 9999, GTC" in engine.say("submit", "buy", "1", "SOL", "USDC", "--limit", "9999")
    assert engine.say("cancel", waiting) == "cancelled: no swap was or will be executed\n"
    assert "by client: cancelled on request" in engine.say("watch", waiting, status=1)
    engine.say("cancel", "01ARZ3NDEKTSV4RRFFQ69G5FAV-00", status=2)


@pytest.mark.slow
def test_a_sniper_buys_a_token_that_is_let_launch(engine: Engine) -> None:
    token = json.loads(engine.say("launch", "--list", "--json"))["launches"][-1]["token"]
    order = ("submit", "buy", "100", token, "SOL", "--sniper", "--max-fee-bps", "9000", "--slippage-bps", "5000")
    order_id = engine.say(*order, "--detach").strip()
    engine.say("launch", token, "--in", "1")
    shown = engine.say("watch", order_id)
    assert f"{token}/SOL launched at slot" in shown and "confirmed" in shown
    assert "is over" in engine.say("launch", "NEW60000", "--slot", "1", status=2)
    assert "not a launched token" in engine.say("launch", "SOL", status=2)


def test_an_unknown_order_is_refused_by_watch(engine: Engine) -> None:
    engine.say("watch", "01ARZ3NDEKTSV4RRFFQ69G5FAV-00", status=2)


def test_status_rebuild_and_audit_agree(engine: Engine) -> None:
    order_id = engine.say("submit", "sell", "3", "SOL", "USDC", "--json").splitlines()[0]
    order_id = json.loads(order_id)["orderId"]
    deadline = time.monotonic() + RUN_SECONDS
    while any(part["lag"] for part in json.loads(engine.say("status", "--json"))["partitions"]):
        assert time.monotonic() < deadline
    assert json.loads(engine.say("rebuild", "--json").splitlines()[-1])["orders"] >= 1
    assert "clean" in engine.say("audit", "verify")
    replayed = json.loads(engine.say("audit", "replay", order_id, "--as-of", "4", "--json"))
    assert len(replayed["events"]) == 4
    engine.say("audit", "replay", order_id, "--as-of", "99", status=2)


def test_a_second_engine_on_the_same_data_is_refused_with_the_owner(engine: Engine) -> None:
    text = engine.run("up", status=2)
    assert "in use by another engine, process" in text


def test_an_unknown_setting_is_refused_by_every_command(engine: Engine) -> None:
    engine.environment["ORDERTAPE_SPED"] = "1"
    try:
        assert "ORDERTAPE_SPEED" in engine.run("status", status=2)
    finally:
        del engine.environment["ORDERTAPE_SPED"]


def test_no_engine_is_said_so(engine: Engine) -> None:
    assert "no usable answer" in engine.say(
        "submit", "buy", "1", "SOL", "USDC", "--url", "http://127.0.0.1:1", status=2
    )


@pytest.mark.parametrize(
    "command",
    [
        "up",
        "serve",
        "worker",
        "project",
        "submit",
        "cancel",
        "watch",
        "launch",
        "status",
        "demo",
        "rebuild",
        "audit replay",
        "audit verify",
    ],
)
def test_every_command_has_help(command: str) -> None:
    shown = CliRunner().invoke(app, [*command.split(), "--help"])
    assert shown.exit_code == 0
    assert len(shown.output.splitlines()) > 4


@pytest.mark.parametrize("killed", ["engine", "valkey"])
def test_nothing_is_left_behind_when_a_process_is_killed(killed: str) -> None:
    directory = Path(tempfile.mkdtemp(prefix="ot-"))
    engine = Engine(directory)
    try:
        process = engine.start()
        descendants = psutil.Process(process.pid).children(recursive=True)
        if killed == "engine":
            process.kill()
        else:
            next(child for child in descendants if "valkey-server" in child.name()).kill()
        _, text = process.communicate(timeout=START_SECONDS)
        _, left = psutil.wait_procs(descendants, timeout=START_SECONDS)
        assert left == []
        if killed == "valkey":
            assert process.returncode == 2
            assert "ended by itself" in text
    finally:
        shutil.rmtree(directory)


def test_the_demo_runs_to_its_end_and_again_on_the_same_data() -> None:
    directory = Path(tempfile.mkdtemp(prefix="ot-"))
    try:
        demo = Engine(directory)
        # As a person sees it, then quickly.
        for speed in ("1", "20"):
            demo.environment["ORDERTAPE_SPEED"] = speed
            text = demo.run("demo")
            assert text.count("pending") >= 5
            assert "nothing lost, nothing repeated" in text
            assert "Everything is stopped" in text
    finally:
        shutil.rmtree(directory)

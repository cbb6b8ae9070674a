"""The commands about orders against a real server in this process: what they send, print and exit with."""

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from app.cli.main import app
from app.client import Client, OrderEndedError, OrderRefusedError
from eventstore.memory import MemoryEventStore
from tests.clocks import StepClock
from tests.desk import Desk
from tests.integration.api import WAIT_SECONDS, Api, running


class Terminal:
    """A server with orders that a desk leads, and a terminal at which commands are typed."""

    def __init__(self, api: Api, desk: Desk) -> None:
        self.api = api
        self.desk = desk

    async def run(self, *command: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, app, [*command, "--url", self.api.url])

    async def first_event(self, order_id: str) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads((await self.api.store.read_stream(order_id, 0, 1))[0].data)
        return frame

    async def placed(self) -> str:
        """The id of the only order, once there is one."""
        while not (commits := await self.api.store.read_log(self.starts, 1, 0.01)):
            pass
        return commits[0].stream

    async def __aenter__(self) -> "Terminal":
        self.starts = dict(await self.api.store.log_ends())
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


def at_terminal(scenario: Callable[[Terminal], Awaitable[None]]) -> None:
    async def main() -> None:
        clock = StepClock()
        store = MemoryEventStore(partitions=4, store_id="memory", now_us=clock.now_us)
        async with (
            asyncio.timeout(WAIT_SECONDS),
            running(store, clock=clock) as api,
            Terminal(api, Desk(store, clock)) as terminal,
        ):
            await scenario(terminal)

    asyncio.run(main())


def test_the_options_of_submit_make_the_order() -> None:
    async def scenario(terminal: Terminal) -> None:
        limit = ("--limit", "150.50", "--expire-at", "2027-01-16T08:00:00Z", "--max-impact-bps", "7")
        done = await terminal.run("submit", "buy", "2", "SOL", "USDC", *limit, "--min-venues", "2", "--detach")
        assert done.exit_code == 0, done.output
        order = await terminal.first_event(done.output.strip())
        assert (order["orderType"], order["limitPrice"], order["minVenues"]) == ("limit", "150.5", 2)
        assert (order["expireAt"], order["maxImpactBps"]) == ("2027-01-16T08:00:00.000000Z", 7)

        done = await terminal.run("submit", "sell", "2", "SOL", "USDC", "--limit", "150", "--tif", "fok", "--detach")
        assert (await terminal.first_event(done.output.strip()))["timeInForce"] == "FOK"
        sniper = ("--sniper", "--max-fee-bps", "900", "--detach")
        done = await terminal.run("submit", "buy", "2", "NEW7", "SOL", *sniper)
        order = await terminal.first_event(done.output.strip())
        assert (order["orderType"], order["maxFeeBps"]) == ("sniper", 900)

    at_terminal(scenario)


def test_options_of_another_type_are_refused_by_the_server() -> None:
    async def scenario(terminal: Terminal) -> None:
        refused = await terminal.run("submit", "buy", "2", "SOL", "USDC", "--tif", "IOC")
        assert isinstance(refused.exception, OrderRefusedError)
        assert 'give orderType "limit"' in str(refused.exception)

    at_terminal(scenario)


def test_submit_exits_with_1_after_any_other_end_than_confirmed() -> None:
    async def scenario(terminal: Terminal) -> None:
        submitting = asyncio.create_task(terminal.run("submit", "buy", "2", "SOL", "USDC", "--limit", "150"))
        await terminal.api.http.delete(f"/api/orders/{await terminal.placed()}")
        done = await submitting
        assert done.exit_code == 1
        assert "by client: cancelled on request" in done.output

    at_terminal(scenario)


def test_cancel_ends_an_order_that_waits_and_says_when_it_had_ended_before() -> None:
    async def scenario(terminal: Terminal) -> None:
        order_id = await terminal.desk.live(["rest"], kind="limit")
        done = await terminal.run("cancel", order_id)
        assert (done.exit_code, done.output) == (0, "cancelled: no swap was or will be executed\n")
        again = await terminal.run("cancel", order_id, "--wait")
        assert (again.exit_code, again.output) == (0, "cancelled already\n")

    at_terminal(scenario)


def test_cancel_of_what_has_ended_otherwise_is_too_late() -> None:
    async def scenario(terminal: Terminal) -> None:
        order_id = await terminal.desk.live(["confirmed"])
        late = await terminal.run("cancel", order_id)
        assert (late.exit_code, late.output) == (1, "too late: the order has ended as confirmed\n")
        problem = json.loads((await terminal.run("cancel", order_id, "--json")).output)
        assert (problem["code"], problem["orderStatus"]) == ("order_ended", "confirmed")
        unknown = await terminal.run("cancel", "01ARZ3NDEKTSV4RRFFQ69G5FAV-03")
        assert isinstance(unknown.exception, OrderRefusedError)
        assert not isinstance(unknown.exception, OrderEndedError)

    at_terminal(scenario)


@pytest.mark.parametrize(("outcome", "status", "words"), [("expired", 0, "cancelled"), ("confirmed", 1, "too late")])
def test_cancel_waits_for_the_swap_that_decides(outcome: str, status: int, words: str) -> None:
    async def scenario(terminal: Terminal) -> None:
        order_id = await terminal.desk.live(["submitted"])
        pending = await terminal.run("cancel", order_id)
        assert pending.exit_code == 0
        assert pending.output == "cancel_pending: a swap may be on its way, and its outcome decides\n"
        waiting = asyncio.create_task(terminal.run("cancel", order_id, "--wait"))
        while not terminal.api.sessions:
            await terminal.api.http.get("/livez")
        await terminal.desk.lead(order_id, outcome)
        done = await waiting
        assert done.exit_code == status, done.output
        assert words in done.output

    at_terminal(scenario)


def test_the_client_tells_what_a_request_to_cancel_came_to() -> None:
    async def scenario(terminal: Terminal) -> None:
        async with Client(terminal.api.url) as client:
            order_id = await terminal.desk.live(["submitted"])
            assert (await client.cancel(order_id))["status"] == "cancel_pending"
            await terminal.desk.lead(order_id, "confirmed")
            with pytest.raises(OrderEndedError) as ended:
                await client.cancel(order_id)
            assert ended.value.status == "confirmed"
            frames = [frame["event"] async for frame in client.events(order_id)]
            assert frames[-3:] == ["cancel_pending", "cancel_rejected", "confirmed"]

    at_terminal(scenario)


@pytest.mark.parametrize("kind", ["cancel", "over", "reject"])
def test_the_client_follows_an_order_to_every_kind_of_end(kind: str) -> None:
    async def scenario(terminal: Terminal) -> None:
        order_id = await terminal.desk.live([kind], kind="sniper")
        async with Client(terminal.api.url, tries=1) as client:
            frames = [frame async for frame in client.events(order_id)]
        assert frames[-1]["status"] == {"cancel": "cancelled", "over": "expired", "reject": "rejected"}[kind]

    at_terminal(scenario)


@pytest.fixture
def chain(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulated chain of its own, at normal speed."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    monkeypatch.setenv("ORDERTAPE_NAMESPACE", f"l{secrets.token_hex(5)}")


def launch(*options: str) -> Result:
    return CliRunner().invoke(app, ["launch", *options])


@pytest.mark.usefixtures("chain")
def test_launch_lists_the_next_launches_of_the_simulated_chain() -> None:
    listed = json.loads(launch("--list", "--json").output)
    slots = [one["slot"] for one in listed["launches"]]
    assert listed["simulated"] is True
    assert len(slots) == 5 and slots == sorted(slots) and slots[0] > listed["slot"]
    text = launch().output.splitlines()
    assert text[0].startswith("simulated chain at slot ")
    assert text[1].startswith(f"{listed['launches'][0]['token']} ")


@pytest.mark.usefixtures("chain")
def test_a_launch_that_was_announced_stays() -> None:
    announced = json.loads(launch("NEW9", "--in", "60", "--json").output)
    (found,) = announced["launches"]
    assert found == {"token": "NEW9", "slot": announced["slot"] + 151}
    assert json.loads(launch("NEW9", "--list", "--json").output)["launches"] == [found]
    again = launch("NEW9", "--slot", str(found["slot"] + 5))
    assert again.exit_code == 1
    assert f"launches at slot {found['slot']}, in about" in again.output
    assert launch("NEW9", "--slot", str(found["slot"])).exit_code == 0


@pytest.mark.usefixtures("chain")
@pytest.mark.parametrize(
    "options", [["--in", "5"], ["--slot", "5"], ["NEW9", "--in", "5", "--slot", "5"], ["NEW9", "--in", "-1"]]
)
def test_a_launch_without_a_token_or_at_two_times_is_refused(options: list[str]) -> None:
    assert launch(*options).exit_code == 2

"""The client: a server that drops it again and again costs no event, and one that is gone is said to be gone."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from typer.testing import CliRunner, Result
from websockets.asyncio.server import ServerConnection, serve

from app.cli.main import app
from app.client import Client, HistoryForkedError, LastCommon, OrderRefusedError, UnreachableError

Handler = Callable[[ServerConnection], Awaitable[None]]
ORDER = "01ARZ3NDEKTSV4RRFFQ69G5FAV-00"


def event(seq: int, last: int = 6, epoch: int = 1) -> str:
    status = "confirmed" if seq == last else "routing"
    cursor, at = f"{epoch}-{seq}-00000000", "2026-11-22T00:00:00.000000Z"
    return json.dumps({"event": "e", "orderId": ORDER, "seq": seq, "status": status, "cursor": cursor, "at": at})


def fork(common: int | None) -> str:
    last = None if common is None else {"seq": common, "cursor": f"1-{common}-00000000"}
    return json.dumps(
        {"type": "error", "code": "fork", "message": "did not last", "orderId": ORDER, "lastCommon": last}
    )


async def subscription(socket: ServerConnection) -> dict[str, str]:
    """What the client asks for after its hello."""
    assert json.loads(await socket.recv()) == {"type": "hello"}
    members: dict[str, str] = json.loads(await socket.recv())
    return members


def followed(handler: Handler, *, tries: int = 10) -> list[int]:
    """The seqs that the client yields while ``handler`` serves each of its connections."""

    async def scenario() -> list[int]:
        async with serve(handler, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            async with Client(f"http://127.0.0.1:{port}", tries=tries) as client:
                return [frame["seq"] async for frame in client.events(ORDER)]

    return asyncio.run(asyncio.wait_for(scenario(), 60))


@pytest.mark.parametrize("cut", ["abort", "close"])
def test_reconnect_after_each_event_resumes_at_the_cursor_of_the_last(cut: str) -> None:
    async def one_event(socket: ServerConnection) -> None:
        request = await subscription(socket)
        seen = int(request["after"].split("-")[1]) if "after" in request else 0
        await socket.send(event(seen + 1))
        if cut == "abort":
            socket.transport.abort()

    assert followed(one_event) == [1, 2, 3, 4, 5, 6]


def test_an_order_without_further_events_ends_at_once() -> None:
    async def ended(socket: ServerConnection) -> None:
        await subscription(socket)
        await socket.send(json.dumps({"type": "subscribed", "orderId": ORDER, "after": 6, "ended": True}))
        await socket.wait_closed()

    assert followed(ended) == []


def test_a_refused_resume_is_told_and_not_repeated() -> None:
    connections = 0

    async def refusing(socket: ServerConnection) -> None:
        nonlocal connections
        connections += 1
        await subscription(socket)
        await socket.send(json.dumps({"type": "error", "code": "not_found", "message": "there is no such order"}))

    with pytest.raises(OrderRefusedError, match="there is no such order"):
        followed(refusing)
    assert connections == 1


def test_a_server_that_only_closes_is_given_up_after_the_tries() -> None:
    async def closing(socket: ServerConnection) -> None:
        await subscription(socket)

    with pytest.raises(UnreachableError, match="the server closed the connection"):
        followed(closing, tries=2)


@pytest.mark.parametrize(("common", "expected"), [(2, LastCommon(2, "1-2-00000000")), (None, None)])
def test_a_fork_is_raised_with_the_last_common_event(common: int | None, expected: LastCommon | None) -> None:
    async def forked(socket: ServerConnection) -> None:
        await subscription(socket)
        await socket.send(fork(common))

    with pytest.raises(HistoryForkedError, match="did not last") as raised:
        followed(forked)
    assert raised.value.last_common == expected


def watched(*options: str) -> Result:
    """What ``watch`` does while events 4 and later are lost between its first and its second connection."""

    async def rewound(socket: ServerConnection) -> None:
        after = (await subscription(socket)).get("after")
        if after is None:
            for seq in (1, 2, 3, 4, 5):
                await socket.send(event(seq))
            await socket.close(4510, "the event log was rewound: reconnect and resume by cursor")
        elif after == "1-5-00000000":
            await socket.send(fork(3))
        else:
            assert after == "1-3-00000000"
            for seq in (4, 5, 6):
                await socket.send(event(seq, epoch=2))

    async def scenario() -> Result:
        async with serve(rewound, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            arguments = ["watch", ORDER, "--url", f"http://127.0.0.1:{port}", *options]
            return await asyncio.to_thread(CliRunner().invoke, app, arguments)

    return asyncio.run(asyncio.wait_for(scenario(), 60))


def test_watch_shows_what_was_taken_back_and_goes_on_after_the_last_common_event() -> None:
    shown = watched()
    assert shown.exit_code == 0, shown.output
    lines = [line.split() for line in shown.output.splitlines()]
    assert [words[0] for words in lines] == ["1", "2", "3", "4", "5", "!", "4", "5", "6"]
    assert "taken back: the events after seq 3 are void" in shown.output


def test_watch_tells_programs_what_was_taken_back() -> None:
    lines = [json.loads(line) for line in watched("--json").output.splitlines()]
    assert [line.get("seq", line.get("type")) for line in lines] == [1, 2, 3, 4, 5, "fork", 4, 5, 6]
    assert lines[5]["lastCommon"] == {"seq": 3, "cursor": "1-3-00000000"}

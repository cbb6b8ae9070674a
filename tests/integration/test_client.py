"""The client: a server that drops it again and again costs no event, and one that is gone is said to be gone."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from websockets.asyncio.server import ServerConnection, serve

from app.client import Client, OrderRefusedError, UnreachableError

Handler = Callable[[ServerConnection], Awaitable[None]]
ORDER = "01ARZ3NDEKTSV4RRFFQ69G5FAV-00"


def event(seq: int, last: int = 6) -> str:
    status = "confirmed" if seq == last else "routing"
    return json.dumps({"event": "e", "seq": seq, "status": status, "cursor": f"1-{seq}-00000000"})


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
        request = json.loads(await socket.recv())
        seen = int(request["after"].split("-")[1]) if "after" in request else 0
        await socket.send(event(seen + 1))
        if cut == "abort":
            socket.transport.abort()

    assert followed(one_event) == [1, 2, 3, 4, 5, 6]


def test_an_order_without_further_events_ends_at_once() -> None:
    async def ended(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send(json.dumps({"type": "subscribed", "orderId": ORDER, "after": 6, "ended": True}))
        await socket.wait_closed()

    assert followed(ended) == []


def test_a_refused_resume_is_told_and_not_repeated() -> None:
    connections = 0

    async def refusing(socket: ServerConnection) -> None:
        nonlocal connections
        connections += 1
        await socket.recv()
        await socket.send(json.dumps({"type": "error", "code": "not_found", "message": "there is no such order"}))

    with pytest.raises(OrderRefusedError, match="there is no such order"):
        followed(refusing)
    assert connections == 1


def test_a_server_that_only_closes_is_given_up_after_the_tries() -> None:
    async def closing(socket: ServerConnection) -> None:
        await socket.recv()

    with pytest.raises(UnreachableError, match="the server closed the connection"):
        followed(closing, tries=2)

"""A law of access: whatever a trader asks, no byte of another client's order is in the answer."""

import asyncio
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from tests.builders import stream_id
from tests.conftest import caught_up
from tests.conftest import running as projecting
from tests.integration.api import hear, live, memory_store, say
from tests.integration.guarded import ANN, SAM, Guarded, guarded

EXAMPLES = 40
SECRET_KEY = "a-key-of-sam-alone"
ORDER_PATHS = ("", "/events", "/stream", "/cancel", "/status", "/execute")
LIST_PATHS = (
    "/api/orders",
    "/orders",
    "/api/orders/history",
    "/api/orders/stats",
    "/api/stream",
    "/api/volumes",
    "/api/orders/execute",
    "/ws",
    "/problems",
    "/health",
)


class World(Struct):
    """A server with orders of two clients, in one partition."""

    on: Guarded
    mine: str
    foreign: tuple[str, str]
    """One that has ended, and one that has not."""
    missing: str
    cursors: tuple[str, ...]
    """Of the foreign orders' events."""
    marks: tuple[str, ...]
    """Texts that are in foreign orders, and nowhere else."""

    def ids(self) -> dict[str, str]:
        return {"mine": self.mine, "ended": self.foreign[0], "open": self.foreign[1], "missing": self.missing}

    def filled(self, text: str) -> str:
        """Put ids and cursors in the place of their names."""
        for name, value in {**self.ids(), "cursor": self.cursors[0], "later": self.cursors[-1]}.items():
            text = text.replace(f"<{name}>", value)
        return text

    def require_silence(self, asked: str, told: str) -> None:
        """Nothing is told of foreign orders but what was asked, letter by letter."""
        for mark in self.marks:
            if mark not in asked:
                assert mark not in told, (asked, told)


names = st.sampled_from(["<mine>", "<ended>", "<open>", "<missing>", "nonsense"])
places = st.sampled_from(["0", "1", "5", "99", "<cursor>", "<later>", "<ended>/1", "<open>/1", "start", "1-1-00000000"])
clients = st.sampled_from([ANN, SAM, "nobody", ""])
queries = st.lists(
    st.one_of(
        st.sampled_from(["wait=0", "until=caught_up", "snapshot=true", "from=start", "from=now", "last=9", "limit=1"]),
        st.builds("after={}".format, places),
        st.sampled_from(["offset=0", "cursor=x", "phase=pending", "asset=SOL", "userId=sam", "asOf=1"]),
        st.builds("afterCursor={}".format, places),
        st.builds("minPosition={}".format, st.sampled_from(["1", "9", "01:1", "02:1"])),
        st.builds("clientId={}".format, clients),
        st.builds("status={}".format, st.sampled_from(["pending", "confirmed"])),
        st.just("waitMs=0"),
    ),
    max_size=3,
)
paths = st.one_of(
    st.builds("/api/orders/{}{}".format, names, st.sampled_from(ORDER_PATHS)),
    st.builds("{}/{}".format, st.sampled_from(["/order", "/orders"]), names),
    st.builds("/api/clients/{}/stream".format, clients),
    st.sampled_from(LIST_PATHS),
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str]:
    """A method and an address, with what would keep a stream open answered at once instead."""
    path, query = draw(paths), draw(queries)
    if path.endswith("/stream") and "wait=0" not in query:
        query.append("wait=0")
    return draw(st.sampled_from(["GET", "GET", "GET", "DELETE", "POST"])), f"{path}?{'&'.join(query)}"


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    """What a socket may be told, sensible or not."""
    kind = draw(st.sampled_from(["subscribe", "subscribe", "subscribe", "cancel", "unsubscribe", "hello"]))
    fields: dict[str, st.SearchStrategy[Any]] = {
        "orderId": names,
        "clientId": clients,
        "scope": st.just("all"),
        "sub": st.sampled_from(["a", "b"]),
        "after": places,
        "from": st.sampled_from(["start", "now"]),
        "last": st.sampled_from([1, 50]),
        "snapshot": st.just(True),
        "until": st.sampled_from(["caught_up", "terminal"]),
        "window": st.sampled_from([1, 512]),
        "batch": st.sampled_from([1, 100]),
        "since": st.just("2020-01-01T00:00:00Z"),
    }
    chosen = draw(st.lists(st.sampled_from(sorted(fields)), max_size=3, unique=True))
    return {"type": kind, **{name: draw(fields[name]) for name in chosen}}


async def world(on: Guarded) -> World:
    mine = await on.ann.place()
    ended, waiting = await on.sam.place(idempotencyKey=SECRET_KEY, amount=77), await on.sam.place(amount=78)
    await live(on.api.streams, mine)
    await live(on.api.streams, ended)
    frames = [json.loads(event.data) for one in (ended, waiting) for event in await on.api.store.read_stream(one)]
    told = [
        frame
        for one in (ended, waiting)
        for frame in (await on.sam.http.get(f"/api/orders/{one}/events")).json()["events"]
    ]
    assert len(told) == 7
    marks = (ended, waiting, f'"{SAM}"', SECRET_KEY, *(frame["meta"]["hash"] for frame in frames))
    return World(on, mine, (ended, waiting), stream_id(SAM), tuple(frame["cursor"] for frame in told), marks)


async def over_http(world: World, request: tuple[str, str]) -> None:
    method, address = request[0], world.filled(request[1])
    if world.mine in address:
        # Its own order goes on being what it is.
        method = "GET"
    response = await world.on.ann.http.request(method, address)
    world.require_silence(address, f"{response.headers} {response.text}")
    for name in ("ended", "open"):
        if f"/<{name}>" in request[1] and "<missing>" not in request[1]:
            asked = world.filled(request[1].replace(f"<{name}>", "<missing>"))
            other = await world.on.ann.http.request(method, asked)
            same = response.text.replace(world.ids()[name], "ID"), other.text.replace(world.missing, "ID")
            assert (response.status_code, same[0]) == (other.status_code, same[1])


async def over_socket(world: World, said: list[dict[str, Any]]) -> None:
    asked = [json.loads(world.filled(json.dumps(one))) for one in said]
    asked = [one for one in asked if one["type"] != "cancel" or one.get("orderId") != world.mine]
    async with world.on.socket(world.on.ann) as socket:
        for one in asked:
            await say(socket, **one)
        await say(socket, type="subscribe", sub="end", orderId=world.mine, until="caught_up")
        while True:
            frame = await hear(socket)
            world.require_silence(json.dumps(asked), json.dumps(frame))
            # Subscriptions are served in turn, so that the others have been by then.
            if (frame.get("sub") == "end" and frame.get("type") == "unsubscribed") or frame.get("type") == "goaway":
                return


def test_whatever_a_trader_asks_nothing_of_another_client_s_order_is_answered(database_url: str) -> None:
    async def opened(on_ready: "asyncio.Queue[World]", done: asyncio.Event) -> None:
        store = memory_store()
        async with projecting(database_url, store) as engine, guarded(database_url, store) as on:
            made = await world(on)
            await caught_up(engine, store)
            on_ready.put_nowait(made)
            await done.wait()

    with asyncio.Runner() as runner:

        async def start() -> tuple[World, asyncio.Event, "asyncio.Task[None]"]:
            ready: asyncio.Queue[World] = asyncio.Queue()
            done = asyncio.Event()
            task = asyncio.create_task(opened(ready, done))
            waiting = asyncio.create_task(ready.get())
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
            return await waiting, done, task

        made, done, task = runner.run(start())

        @settings(max_examples=EXAMPLES)
        @given(st.lists(requests(), min_size=1, max_size=4), st.lists(messages(), min_size=1, max_size=4))
        def law(asked: list[tuple[str, str]], said: list[dict[str, Any]]) -> None:
            async def ask() -> None:
                for request in asked:
                    await over_http(made, request)
                await over_socket(made, said)

            runner.run(ask())

        async def stop() -> None:
            done.set()
            await task

        try:
            law()
        finally:
            runner.run(stop())

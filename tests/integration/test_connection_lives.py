"""Connections do not last for ever: each is told when it is old enough, and they do not all end at once."""

import asyncio

from app.api.orders.intake import Intake, OrderLimits
from app.api.problems import AGED, Closing
from app.api.streaming.ring import Ring
from app.api.streaming.sessions import SocketLimits
from app.clock import SystemClock
from app.execution.streams import OrderStreams
from tests.integration.api import Api, connected, hear_close, live, memory_store, running, say, sessions_on
from tests.integration.test_event_streams import listening

LIFE_SECONDS = 0.3


def test_an_old_socket_and_an_old_event_stream_are_told_to_come_back_with_their_cursors() -> None:
    async def scenario(api: Api) -> None:
        order_id = await api.place()
        async with connected(api) as socket, listening(api, "/api/stream") as heard:
            await say(socket, type="subscribe", sub="s", clientId="user01", **{"from": "start"})
            await live(api.streams, order_id)
            code, frames = await hear_close(socket)
            last = [frame["cursor"] for frame in frames if "event" in frame][-1]
            told = {"code": 4503, "reason": AGED.reason, "reconnectAfterMs": 1_000}
            assert (code, frames[-1]) == (4503, {"type": "goaway", **told, "cursors": {"s": last}})
            _, goaway = await heard.until("goaway")
            assert goaway is not None and goaway.data == {"type": "goaway", **told}
            assert await heard.next() is None
        # Whoever comes back is welcome.
        async with connected(api, f"?clientId=user01&after={last}") as socket:
            code, frames = await hear_close(socket)
            assert (code, [frame["type"] for frame in frames]) == (4503, ["goaway"])

    async def main() -> None:
        async with running(memory_store(), sockets=SocketLimits(life_seconds_max=LIFE_SECONDS)) as api:
            await scenario(api)

    asyncio.run(main())


class Guest:
    """A subscriber that does nothing."""

    def end(self, closing: Closing | None) -> None:
        pass

    def tick(self, now: float) -> None:
        pass


def test_connections_that_came_together_live_differently_long() -> None:
    async def main() -> None:
        store, draws = memory_store(), iter([0.0, 0.5, 1.0])
        intake = Intake(OrderStreams(store, SystemClock(), bytes, "test"), store, OrderLimits())
        limits = SocketLimits(life_seconds_max=100_000)
        sessions = sessions_on(store, Ring(frames_max=1, characters_max=1), intake, limits)
        sessions.chance = lambda: next(draws)
        began = asyncio.get_running_loop().time()
        with sessions.joined(Guest()), sessions.joined(Guest()), sessions.joined(Guest()):
            lives = [until - began for until in sessions._open.values()]
        assert [round(life, -2) for life in lives] == [100_000, 95_000, 90_000]

    asyncio.run(main())


def test_a_connection_lives_a_day_at_most() -> None:
    assert SocketLimits().life_seconds_max == 24 * 60 * 60

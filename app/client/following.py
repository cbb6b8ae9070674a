"""Following orders over as many connections as it takes: each event once, in order, or an error that says why not."""

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.http11 import Response

from app.client.errors import (
    EventMissingError,
    HistoryForkedError,
    OrderRefusedError,
    PlaceLostError,
    SentAwayError,
    UnreachableError,
)
from app.client.progress import Progress

TERMINAL: Final = frozenset({"confirmed", "cancelled", "expired", "rejected", "failed"})
"""Statuses of orders that have ended."""
SUB: Final = "follow"
BATCH: Final = 100
CLOSE_SECONDS: Final = 2.0
SILENCE_SECONDS: Final = 35.0
"""Two heartbeats and a little: longer than that, a connection is dead."""
LOST: Final = 1006
FRAME_TOO_BIG: Final = 1009
REFUSED: Final = (400, 401, 403, 404)
"""Statuses of a handshake that another try would not mend."""
PASSING: Final = frozenset({"unavailable", "internal", "rate_limited"})
"""Codes of the server's own trouble, or of too much at once."""

Frame = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Pace:
    """When a connection counts as lost, and when it is replaced."""

    reconnect_seconds: float = 0.25
    """Doubled with each connection in a row that brings nothing new, and multiplied by a chance."""
    reconnect_seconds_max: float = 20.0
    connect_seconds: float = 10.0
    silence_seconds: float | None = None
    """None: twice the server's heartbeat and five seconds."""
    chance: Callable[[], float] = random.random
    """Draws from 0 to 1."""

    def delay_seconds(self, failures: int) -> float:
        """Return how long to wait after so many connections in a row that brought nothing new."""
        # Full jitter: clients that lost one server together do not come back together.
        return self.chance() * min(self.reconnect_seconds_max, self.reconnect_seconds * 2.0**failures)


class _LostError(Exception):
    def __init__(self, reason: str, *, code: int = LOST, wait_seconds: float = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code
        self.wait_seconds = wait_seconds

    @property
    def is_final(self) -> bool:
        """Whether to stay away: 44xx, and a frame that was too big."""
        return 4400 <= self.code < 4500 or self.code == FRAME_TOO_BIG


class Following:
    """Follows one subscription.

    Args:
        url: the server's WebSocket.
        wanted: the members of ``subscribe``.
        tries: connections in a row that may bring nothing new.
        key: sent as ``token`` in ``hello``.
    """

    def __init__(self, url: str, wanted: Mapping[str, Any], *, tries: int, pace: Pace, key: str | None = None) -> None:
        self._url = url
        self._tries = tries
        self._pace = pace
        self._key = key
        self._progress = Progress(wanted)
        self._failures = 0
        self._missing = ("", 0)
        self._is_over = False

    async def items(self) -> AsyncGenerator[Frame]:
        """Yield events, and a snapshot where that was asked for, until the subscription's end.

        Raises:
            OrderRefusedError, SentAwayError, EventMissingError, UnreachableError: it cannot be followed.
        """
        while not self._is_over:
            try:
                async with aclosing(self._connection()) as items:
                    async for item in items:
                        yield item
            except _LostError as lost:
                if lost.is_final:
                    raise SentAwayError(lost.code, lost.reason) from None
                self._failures += 1
                if self._failures >= self._tries:
                    raise UnreachableError(f"cannot follow at {self._url}: {lost.reason}") from lost
                await asyncio.sleep(lost.wait_seconds + self._pace.delay_seconds(self._failures))

    async def _connection(self) -> AsyncGenerator[Frame]:
        """Yield what one connection brings; it ends with the subscription, or with a :class:`_LostError`."""
        try:
            async with connect(
                self._url, open_timeout=self._pace.connect_seconds, close_timeout=CLOSE_SECONDS, compression=None
            ) as socket:
                # Whoever says hello hears heartbeats, so that silence means a lost connection.
                await socket.send(json.dumps({"type": "hello"} | ({} if self._key is None else {"token": self._key})))
                subscribe = {"type": "subscribe", "sub": SUB, "batch": BATCH, **self._progress.subscribe}
                await socket.send(json.dumps(subscribe))
                async with aclosing(self._frames(socket)) as frames:
                    async for frame in frames:
                        for item in self._taken(frame):
                            yield item
                        if self._is_over:
                            return
        except ConnectionClosed as closed:
            raise _lost_by(closed) from closed
        except InvalidStatus as error:
            if error.response.status_code in REFUSED:
                raise OrderRefusedError(_problem_in(error.response)) from error
            raise _LostError(str(error)) from error
        except (OSError, InvalidHandshake) as error:
            raise _LostError(str(error) or type(error).__name__) from error

    async def _frames(self, socket: ClientConnection) -> AsyncGenerator[Frame]:
        leave: _LostError | None = None
        silence_seconds = self._pace.silence_seconds or SILENCE_SECONDS
        while True:
            try:
                async with asyncio.timeout(silence_seconds):
                    frame = _frame_of(await socket.recv())
            except TimeoutError:
                # A peer that is gone answers no close either.
                socket.transport.abort()
                raise _LostError(f"no word from the server for {silence_seconds} s") from None
            except ConnectionClosed as closed:
                lost = _lost_by(closed)
                if leave is not None and lost.code == LOST:
                    raise leave from None
                lost.wait_seconds = leave.wait_seconds if leave is not None else 0
                raise lost from None
            if frame.get("type") == "welcome" and self._pace.silence_seconds is None:
                silence_seconds = 2 * frame["heartbeatMs"] / 1_000 + 5
            if frame.get("type") == "goaway":
                wait_seconds = frame.get("reconnectAfterMs", 0) / 1_000
                leave = _LostError(str(frame["reason"]), code=frame["code"], wait_seconds=wait_seconds)
            yield frame

    def _taken(self, frame: Frame) -> Iterator[Frame]:
        """Take in a message; yield what the application is to have of it."""
        progress = self._progress
        match frame.get("type"):
            case "error":
                raise _refusal(frame)
            case "heartbeat":
                self._failures = 0
            case "bookmark":
                self._failures = 0
                progress.cursor = frame["cursor"]
            case "caught_up":
                progress.cursor = frame["cursor"]
            case "goaway":
                progress.cursor = frame.get("cursors", {}).get(SUB, progress.cursor)
            case "subscribed":
                progress.begin(frame)
                self._is_over = frame.get("ended", False)
                if "snapshot" in frame:
                    yield {"type": "snapshot", **frame["snapshot"]}
            case "unsubscribed":
                self._is_over = True
            case _:
                for event in frame["items"] if frame.get("type") == "events" else [frame] if "event" in frame else ():
                    yield from self._taken_event(event)

    def _taken_event(self, event: Frame) -> Iterator[Frame]:
        if not self._progress.is_new(event):
            return
        self._failures = 0
        expected = self._progress.expected(event)
        if event["seq"] != expected:
            order_id, missing = event["orderId"], (event["orderId"], expected)
            error = EventMissingError(order_id, expected, event["seq"])
            if missing == self._missing:
                raise error
            # Look a second time before it is called missing.
            self._missing = missing
            raise _LostError(str(error))
        self._progress.take(event)
        if self._progress.is_of_order and event["status"] in TERMINAL:
            self._is_over = True
        yield {name: value for name, value in event.items() if name != "sub"}


def _problem_in(response: Response) -> Frame:
    try:
        problem = json.loads(response.body or b"")
    except ValueError:
        problem = None
    return problem if isinstance(problem, dict) else {"detail": f"the server answers {response.status_code}"}


def _frame_of(text: str | bytes) -> Frame:
    try:
        frame = json.loads(text)
    except ValueError:
        frame = None
    if not isinstance(frame, dict):
        raise _LostError("the server sent what is no JSON object")
    return frame


def _lost_by(closed: ConnectionClosed) -> _LostError:
    if closed.rcvd is None:
        return _LostError("the connection was lost")
    return _LostError(closed.rcvd.reason or "the server closed the connection", code=closed.rcvd.code)


def _refusal(problem: Frame) -> Exception:
    match problem.get("code"):
        case "fork":
            return HistoryForkedError(problem)
        case "truncated" | "cursor_unavailable":
            return PlaceLostError(problem)
        case code if code in PASSING:
            return _LostError(str(problem.get("message")), wait_seconds=problem.get("retryAfterMs", 0) / 1_000)
        case _:
            return OrderRefusedError(problem)

"""Submitting orders and following their events over HTTP and WebSocket."""

import asyncio
import json
import random
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, Final, NamedTuple, Self
from urllib.parse import quote

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK, InvalidHandshake, InvalidStatus
from websockets.http11 import Response

TERMINAL: Final = frozenset({"confirmed", "cancelled", "expired", "rejected", "failed"})
"""Statuses of orders that have ended."""
RECONNECT_SECONDS: Final = 0.25
RECONNECT_SECONDS_MAX: Final = 20.0
CONNECT_SECONDS: Final = 10.0
_NOT_ALLOWED: Final = (401, 403)
_KEY_REFUSED: Final = (4401, 4403)
"""A handshake, or a connection, that another try would not mend."""
SILENCE_SECONDS: Final = 35.0
"""Two heartbeats and a little: longer than that, a connection is dead."""


class ClientError(Exception):
    """Base of what this client raises on purpose."""


class OrderRefusedError(ClientError):
    """The server refused the request; ``problem`` is its RFC 9457 object or in-band error. Correct it."""

    def __init__(self, problem: dict[str, Any]) -> None:
        details = [f"{error.get('pointer', '')} {error.get('message', '')}" for error in problem.get("errors", [])]
        text = str(problem.get("detail") or problem.get("message") or problem.get("code") or problem)
        super().__init__("; ".join([text, *details]))
        self.problem = problem


class LastCommon(NamedTuple):
    """The last event that a client has and that lasted."""

    seq: int | None
    """Of one order; None where several orders are followed."""
    cursor: str


class HistoryForkedError(OrderRefusedError):
    """The event to resume after did not last: the server lost it, and events after it may be others now.

    Forget the events after ``last_common``, all of them if it is None, and resume after its cursor.
    """

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(problem)
        common = problem.get("lastCommon")
        self.last_common: LastCommon | None = LastCommon(common.get("seq"), common["cursor"]) if common else None


class OrderEndedError(OrderRefusedError):
    """Too late to cancel: the order has ended as ``status``, and nothing was changed."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(problem)
        self.status = str(problem.get("orderStatus"))


class UnreachableError(ClientError):
    """No answer from the server, or none for now. What has an idempotency key, or cancels, may be sent again."""


class Client:
    """Talks to one server; use it as an asynchronous context manager.

    Args:
        url: the server's ``http://`` or ``https://`` address.
        tries: how many times in a row a lost connection is replaced without any event in between.
        key: what the server asks for, if it asks for keys.
    """

    def __init__(self, url: str, *, tries: int = 10, key: str | None = None) -> None:
        self._url = url.rstrip("/")
        self._tries = tries
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._http = httpx.AsyncClient(base_url=self._url, timeout=30, headers=self._headers)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def submit(self, order: dict[str, Any], *, idempotency_key: str | None = None) -> dict[str, Any]:
        """Submit ``order`` and return the server's answer, with ``orderId``.

        Raises:
            OrderRefusedError: the order is not acceptable, and nothing was created.
            UnreachableError: no answer, or the server is out of order.
        """
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        return await self._request("POST", "/api/orders", json=order, headers=headers)

    async def order(self, order_id: str) -> dict[str, Any]:
        """Return an order as it is now; raises as :meth:`submit`."""
        return await self._request("GET", f"/api/orders/{quote(order_id, safe='')}")

    async def cancel(self, order_id: str) -> dict[str, Any]:
        """Ask for the end of an order and return the server's answer, with ``status`` and ``seq``.

        ``cancelled``: no swap was or will be executed. ``cancel_pending``: a swap may be on its way, and its outcome
        decides; :meth:`events` after ``seq`` tell which, ending as cancelled or confirmed.

        Raises:
            OrderEndedError: the order has ended before.
            OrderRefusedError: the server does not know the order.
            UnreachableError: the order is not known to be cancelled. Ask again.
        """
        return await self._request("DELETE", f"/api/orders/{quote(order_id, safe='')}")

    async def events(self, order_id: str, *, after: str | int | None = None) -> AsyncIterator[dict[str, Any]]:
        """Yield an order's events after ``after``, each once and in order, until its last; reconnects by itself.

        Args:
            order_id: the order.
            after: a seq, an event id or a cursor; None for all events.

        Raises:
            HistoryForkedError: events that were yielded, or the one named by ``after``, did not last. Forget those
                after its ``last_common``, and call again with the cursor of that.
            OrderRefusedError: the server does not know the order or cannot resume there.
            UnreachableError: no connection after the given number of tries.
        """
        wanted = {"type": "subscribe", "orderId": order_id}
        async with aclosing(self._frames(wanted, {} if after is None else {"after": after}, order_id)) as frames:
            async for frame in frames:
                if "event" in frame:
                    yield frame
                if frame.get("status") in TERMINAL or frame.get("ended"):
                    return

    async def stream(
        self, *, client: str | None = None, after: str | None = None, start: str = "now", events: Sequence[str] = ()
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield events of many orders, each once, in order for each of them, for ever; reconnects by itself.

        Args:
            client: whose orders; None for everybody's.
            after: the ``cursor`` of an event that this method yielded for the same orders; go on after it.
            start: "start" or "now", without ``after``.
            events: the names of the wanted ones; all without any.

        Raises:
            HistoryForkedError: events that were yielded, or the one named by ``after``, did not last. Forget those
                after its ``last_common``, and call again with the cursor of that.
            OrderRefusedError: the server cannot resume there; ``problem`` says where the orders can be read.
            UnreachableError: no connection after the given number of tries.
        """
        wanted: dict[str, Any] = {"type": "subscribe", "sub": "stream"}
        wanted |= {"scope": "all"} if client is None else {"clientId": client}
        if events:
            wanted["events"] = list(events)
        first = {"from": start} if after is None else {"after": after}
        whose = "all orders" if client is None else f"the orders of {client}"
        async with aclosing(self._frames(wanted, first, whose)) as frames:
            async for frame in frames:
                if "event" in frame:
                    yield frame

    async def _frames(self, wanted: dict[str, Any], start: dict[str, Any], what: str) -> AsyncGenerator[dict[str, Any]]:
        """Yield what a subscription is sent, over as many connections as it takes, each resumed by the last cursor."""
        failures, lost = 0, ""
        while failures < self._tries:
            wait_seconds = 0.0
            try:
                async with aclosing(self._connection({**wanted, **start})) as frames:
                    async for frame in frames:
                        if "event" in frame or frame.get("type") in ("bookmark", "heartbeat"):
                            failures = 0
                        if frame.get("type") == "subscribed" and "sub" in frame:
                            # From now on "now" would be later.
                            start = {"after": frame["after"]}
                        elif "cursor" in frame:
                            start = {"after": frame["cursor"]}
                        wait_seconds = frame.get("reconnectAfterMs", 0) / 1_000
                        yield frame
                lost = "the server closed the connection"
            except InvalidStatus as error:
                if error.response.status_code in _NOT_ALLOWED:
                    raise OrderRefusedError(_problem_in(error.response)) from error
                lost = str(error)
            except (OSError, ConnectionClosed, InvalidHandshake, TimeoutError) as error:
                if isinstance(error, ConnectionClosed) and error.rcvd and error.rcvd.code in _KEY_REFUSED:
                    raise OrderRefusedError({"code": "unauthenticated", "detail": error.rcvd.reason}) from error
                lost = str(error)
            failures += 1
            # Full jitter: clients that lost one server together do not come back together.
            longest = max(wait_seconds, min(RECONNECT_SECONDS_MAX, RECONNECT_SECONDS * 2**failures))
            await asyncio.sleep(random.uniform(0, longest))
        raise UnreachableError(f"cannot follow {what} at {self._url}: {lost}")

    async def _connection(self, subscribe: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        named = "sub" in subscribe
        options: Any = {"open_timeout": CONNECT_SECONDS, "compression": None, "additional_headers": self._headers}
        async with connect(self.socket_url, **options) as socket:
            if named:
                # Whoever says hello hears heartbeats, so that silence means a lost connection.
                await socket.send(json.dumps({"type": "hello"}))
            await socket.send(json.dumps(subscribe))
            while True:
                try:
                    async with asyncio.timeout(SILENCE_SECONDS if named else None):
                        frame = json.loads(await socket.recv())
                except ConnectionClosedOK:
                    return
                if frame.get("type") == "error":
                    raise HistoryForkedError(frame) if frame.get("code") == "fork" else OrderRefusedError(frame)
                yield frame

    @property
    def socket_url(self) -> str:
        """The address of the server's WebSocket."""
        return "ws" + self._url.removeprefix("http") + "/api/orders/ws"

    async def _request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            response = await self._http.request(method, path, **options)
            answer: dict[str, Any] = response.json()
        except (httpx.TransportError, ValueError) as error:
            raise UnreachableError(f"no usable answer from {self._url}: {error}") from error
        if response.status_code >= 500:
            raise UnreachableError(str(answer.get("detail") or answer))
        if response.status_code >= 400:
            raise OrderEndedError(answer) if answer.get("code") == "order_ended" else OrderRefusedError(answer)
        return answer


def _problem_in(response: Response) -> dict[str, Any]:
    try:
        problem = json.loads(response.body or b"")
    except ValueError:
        problem = None
    return problem if isinstance(problem, dict) else {"detail": f"the server answers {response.status_code}"}

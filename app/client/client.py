"""Submitting orders and following their events over HTTP and WebSocket."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, Self
from urllib.parse import quote

import httpx

from app.client.errors import OrderEndedError, OrderRefusedError, UnreachableError
from app.client.following import Following, Pace

DEFAULT_PACE: Final = Pace()


class Client:
    """Talks to one server; use it as an asynchronous context manager.

    Args:
        url: the server's ``http://`` or ``https://`` address.
        tries: how many connections in a row may bring nothing new before the server counts as unreachable.
        key: an API key, where the server asks for one.
        pace: how lost connections are noticed and replaced.
    """

    def __init__(self, url: str, *, tries: int = 10, key: str | None = None, pace: Pace = DEFAULT_PACE) -> None:
        self._url = url.rstrip("/")
        self._key = key
        self._pace = pace
        self._tries = tries
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._http = httpx.AsyncClient(base_url=self._url, timeout=30, headers=headers)

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
            PlaceLostError: what followed ``after`` cannot all be had. Forget the order, and call again without it.
            OrderRefusedError: the server does not know the order or cannot resume there.
            SentAwayError, EventMissingError: as they say.
            UnreachableError: no connection after the given number of tries.
        """
        wanted = {"orderId": order_id} | ({} if after is None else {"after": after})
        async with aclosing(self._following(wanted).items()) as items:
            async for event in items:
                yield {name: value for name, value in event.items() if name != "replay"}

    async def stream(
        self,
        *,
        client: str | None = None,
        after: str | None = None,
        start: str = "now",
        events: Sequence[str] = (),
        snapshot: bool = False,
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield events of many orders, each once, in order for each of them, for ever; reconnects by itself.

        Args:
            client: whose orders; None for everybody's.
            after: the ``cursor`` of an event that this method yielded for the same orders; go on after it.
            start: "start" or "now", without ``after``.
            events: the names of the wanted ones; all without any.
            snapshot: instead of ``after`` and ``start``: yield ``{"type": "snapshot", "orders", …}`` first, the orders
                as they are, then events after that.

        Raises:
            HistoryForkedError: events that were yielded, or the one named by ``after``, did not last. Forget those
                after its ``last_common``, and call again with the cursor of that.
            PlaceLostError: what followed ``after`` cannot all be had. Forget the orders, call again with ``snapshot``.
            OrderRefusedError: the server cannot resume there.
            SentAwayError, EventMissingError: as they say.
            UnreachableError: no connection after the given number of tries.
        """
        wanted: dict[str, Any] = {"scope": "all"} if client is None else {"clientId": client}
        if events:
            wanted["events"] = list(events)
        if snapshot:
            wanted["snapshot"] = True
        else:
            wanted |= {"from": start} if after is None else {"after": after}
        async with aclosing(self._following(wanted).items()) as items:
            async for item in items:
                yield item

    def _following(self, wanted: Mapping[str, Any]) -> Following:
        return Following(self.socket_url, wanted, tries=self._tries, pace=self._pace, key=self._key)

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
        if response.status_code >= 500 or answer.get("code") == "idempotency_in_flight":
            # It passes: the same request may be sent again.
            raise UnreachableError(str(answer.get("detail") or answer))
        if response.status_code >= 400:
            raise OrderEndedError(answer) if answer.get("code") == "order_ended" else OrderRefusedError(answer)
        return answer

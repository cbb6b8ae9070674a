"""Clients of one run: they submit, repeat and resume as real ones do, and remember what they were told."""

import asyncio
import json
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from eventstore.errors import BadIdError
from eventstore.ids import partition_in

CLIENTS = 5
WATCHES_MAX = 25
"""Most orders that are watched at the same time."""
SENDS_MAX = 12
REQUEST_SECONDS = 8
PAUSE_SECONDS = 0.12
RETRY_SECONDS = 0.3
RESUME_SECONDS = 0.05
QUIET_SECONDS = 3
"""A client that hears nothing for so long connects again."""
LOST_CODES = frozenset({"fork", "cursor_unavailable", "not_found", "after_beyond_end"})
"""Answers that tell a client that what it knows is not, or no longer, the order's history."""
FINAL = frozenset({"confirmed", "cancelled", "expired", "rejected", "failed"})
REST_SECONDS = 14
"""Time after the start of a run at which every order that still rests expires."""

Key = tuple[str, str]
"""Client and idempotency key."""


@dataclass(frozen=True)
class Answer:
    """One accepted order, or one that was found by its key."""

    order_id: str
    status: int
    """202, or 200 for a repetition."""
    key: Key | None


@dataclass
class View:
    """What one WebSocket client knows of an order."""

    order_id: str
    events: list[dict[str, Any]] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    """Hashes of all events ever received."""
    lost: list[str] = field(default_factory=list)
    """The codes by which the server told that the view was not the order's history."""
    resumes: int = 0

    @property
    def ended(self) -> bool:
        """Whether the last event is an order's last one."""
        return bool(self.events) and self.events[-1]["status"] in FINAL

    @property
    def last_hash(self) -> str:
        return str(self.events[-1]["meta"]["hash"]) if self.events else ""

    def take(self, frame: dict[str, Any]) -> str:
        """Add an event; return what is wrong with it, "" for nothing."""
        expected, before = len(self.events) + 1, self.last_hash
        prev = frame["meta"].get("prev") or ""
        wrong = ""
        if frame["seq"] != expected:
            wrong = f"{self.order_id}: event {frame['seq']} came where {expected} was due (lost: {self.lost})"
        elif prev != before:
            wrong = (
                f"{self.order_id}: event {frame['seq']} continues {prev[:8] or 'nothing'}, but the client had "
                f"{before[:8] or 'nothing'} and was told of no fork (lost: {self.lost})"
            )
        self.events.append(frame)
        self.seen.add(str(frame["meta"]["hash"]))
        return wrong


class Load:
    """All clients of a run. ``answers``, ``views`` and ``wrong`` are read when they have stopped."""

    def __init__(self, url: str, seed: int) -> None:
        self.answers: list[Answer] = []
        self.views: dict[str, View] = {}
        self.wrong: list[str] = []
        self.counts: Counter[str] = Counter()
        self.closing = asyncio.Event()
        """No new orders any more."""
        self.calm = asyncio.Event()
        """The engine should work again: a watch that gets nothing more ends."""
        self._url = url
        self._seed = seed
        self.cancelled: list[str] = []
        """Orders of which a client was told that they have ended without a swap."""
        self._watches: set[asyncio.Task[None]] = set()
        self._expire_at = (datetime.now(UTC) + timedelta(seconds=REST_SECONDS)).isoformat()
        self._keys: dict[Key, dict[str, Any]] = defaultdict(dict)

    async def submit_until_closing(self) -> None:
        """Run the submitting clients until :attr:`closing`."""
        async with httpx.AsyncClient(base_url=self._url, timeout=REQUEST_SECONDS) as http, asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(self._client(http, f"client-{number}", random.Random(f"{self._seed}/{number}")))

    async def watched(self) -> None:
        """Return when every watch has ended."""
        while self._watches:
            await asyncio.wait(self._watches)
            for watch in [one for one in self._watches if one.done()]:
                self._watches.discard(watch)
                watch.result()

    async def _client(self, http: httpx.AsyncClient, name: str, chance: random.Random) -> None:
        number = 0
        while not self.closing.is_set():
            number += 1
            order = {
                "clientId": name,
                "side": chance.choice(["buy", "sell"]),
                "baseAsset": "SOL",
                "quoteAsset": "USDC",
                "amount": str(chance.randint(1, 50)),
                **self._terms(chance),
            }
            fate = chance.random()
            if fate < 0.3:
                await self._send(http, order, None, chance)
            elif fate < 0.85:
                key = (name, f"{self._seed}-{number}")
                self._keys[key] = order
                twice = 2 if chance.random() < 0.25 else 1
                await asyncio.gather(*(self._send(http, order, key, chance) for _ in range(twice)))
            elif known := [key for key in self._keys if key[0] == name]:
                key = chance.choice(known)
                await self._send(http, self._keys[key], key, chance)
            await asyncio.sleep(PAUSE_SECONDS * chance.random())

    def _terms(self, chance: random.Random) -> dict[str, Any]:
        """What makes an order a limit order that is filled or not, at once or later; mostly nothing."""
        drawn = chance.random()
        if drawn < 0.7:
            return {}
        price = f"{chance.randint(1_640, 1_700) / 10:.1f}"
        if drawn < 0.82:
            return {"orderType": "limit", "limitPrice": price, "timeInForce": chance.choice(["IOC", "FOK"])}
        return {"orderType": "limit", "limitPrice": price, "expireAt": self._expire_at}

    async def _cancel(self, http: httpx.AsyncClient, order_id: str) -> None:
        try:
            response = await http.delete(f"/api/orders/{order_id}")
        except httpx.HTTPError as error:
            self.counts[type(error).__name__] += 1
            return
        self.counts[f"cancel {response.status_code}"] += 1
        if response.status_code == 200:
            self.cancelled.append(order_id)
        elif response.status_code not in (202, 404, 409, 503):
            self.wrong.append(f"cancelling {order_id} was answered {response.status_code}: {response.text[:300]}")

    async def _send(
        self, http: httpx.AsyncClient, order: dict[str, Any], key: Key | None, chance: random.Random
    ) -> None:
        headers = {} if key is None else {"Idempotency-Key": key[1]}
        for _ in range(SENDS_MAX):
            try:
                response = await http.post("/api/orders", json=order, headers=headers)
            except httpx.HTTPError as error:
                self.counts[type(error).__name__] += 1
            else:
                self.counts[str(response.status_code)] += 1
                if response.status_code in (200, 202):
                    answer = Answer(response.json()["orderId"], response.status_code, key)
                    self._accepted(answer, chance)
                    if chance.random() < 0.12:
                        await self._cancel(http, answer.order_id)
                    return
                if response.status_code == 400 and "expireAt must be in the future" in response.text:
                    return
                in_flight = response.status_code == 409 and response.json()["code"] == "idempotency_in_flight"
                if response.status_code != 503 and not in_flight:
                    self.wrong.append(f"{order} {key} was answered {response.status_code}: {response.text[:300]}")
                    return
            if key is None or self.closing.is_set():
                return
            await asyncio.sleep(RETRY_SECONDS)

    def _accepted(self, answer: Answer, chance: random.Random) -> None:
        self.answers.append(answer)
        try:
            partition_in(answer.order_id)
        except BadIdError:
            self.wrong.append(f"{answer.order_id} is no order id")
            return
        if answer.order_id in self.views or self._following() >= WATCHES_MAX or chance.random() < 0.4:
            return
        self.views[answer.order_id] = view = View(answer.order_id)
        watch = asyncio.create_task(self._watch(view, random.Random(f"{self._seed}/{len(self.views)}")))
        self._watches.add(watch)

    def _following(self) -> int:
        return sum(not view.ended for view in self.views.values())

    async def _watch(self, view: View, chance: random.Random) -> None:
        """Follow an order to its end, through cuts of either side; then, in the calm, resume once more."""
        while True:
            calm = self.calm.is_set()
            told = await self._follow(view, chance)
            if calm and told in {"ended", "not_found"}:
                return
            if told == "ended":
                await self.calm.wait()
            await asyncio.sleep(RETRY_SECONDS if told == "refused" else RESUME_SECONDS)

    async def _follow(self, view: View, chance: random.Random) -> str:
        """Follow an order on one connection; return ``ended``, ``refused``, ``again``, or the code of a loss."""
        url = f"ws{self._url.removeprefix('http')}/api/orders/ws?orderId={view.order_id}"
        if view.events:
            url += f"&after={view.events[-1]['cursor']}"
            view.resumes += 1
        try:
            async with connect(url, compression=None, open_timeout=3, close_timeout=0.2, proxy=None) as socket:
                async with asyncio.timeout(QUIET_SECONDS):
                    return await self._hear(view, socket, chance.randint(1, 6))
        except (OSError, TimeoutError, WebSocketException, EOFError):
            self.counts["socket lost"] += 1
        return "refused"

    async def _hear(self, view: View, socket: ClientConnection, frames_max: int) -> str:
        frames = 0
        while frames < frames_max:
            frame = json.loads(await socket.recv())
            code = frame.get("code", "") if frame.get("type") == "error" else ""
            if "event" in frame:
                frames += 1
                if wrong := view.take(frame):
                    self.wrong.append(wrong)
                    view.events.clear()
                    return "again"
                if view.ended:
                    return "ended"
            elif code in LOST_CODES:
                view.lost.append(code)
                view.events.clear()
                return str(code)
            elif code and code not in {"unavailable", "internal"}:
                self.wrong.append(f"{view.order_id}: {frame}")
                return "again"
            elif frame.get("type") == "subscribed":
                if frame["after"] != len(view.events) or frame["ended"] != view.ended:
                    self.wrong.append(f"{view.order_id}: {frame} at a view of {len(view.events)} events")
                return "ended"
        return "again"

"""Readers of one subscription each, over one real socket after another, that check what they were sent."""

import asyncio
import json
import random
import socket as sockets
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from msgspec import Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from eventstore.ids import event_id, partition_in, partition_of
from tests.property.served import PARTITIONS, World, Written
from tests.property.subscribers import Frame, Listener, Wish

RECEIVE_BYTES: Final = 4_096
SENT_AWAY: Final = {None, 1006, 1011, 4503, 4508, 4510}
"""Close codes after which a client reconnects and resumes; None: the connection just ended."""
ADDED: Final = {"cursor", "phase", "sub", "replay", "over"}
"""Members of a frame that its stored event does not have; ``over`` is the reader's own."""

Place = Mapping[int, int]
"""By partition, the position that everything after is to come; for one order's subscription, its seq."""


class Begin(Struct, frozen=True):
    """Where a reader begins."""

    members: Mapping[str, object]
    after: Place | None
    """None: the answer tells."""
    last: int | None = None
    """So many of the events that are there are to come."""
    plain: bool = False
    """It names an order and nothing else."""


class Reader(Listener):
    """One subscription over one real socket after another."""

    def __init__(self, world: World, wish: Wish, begin: Begin) -> None:
        super().__init__(wish)
        self.world = world
        self.start = begin
        self.after = begin.after
        self.shown: dict[str, Frame] | None = None
        """The orders of its snapshot."""
        self.taking = asyncio.Event()
        self.taking.set()
        self.acking = True
        self.codes: list[int | None] = []
        self.given: str | None = None
        """The place that the server named when it sent the reader away."""
        self.listening: asyncio.Task[None] | None = None
        self._socket: ClientConnection | None = None
        self._acks: list[str] = []
        self._floors: list[str | None] = []
        """What each connection resumed by."""
        self._quiet_ends: Place | None = None
        """Where the logs ended when it subscribed, if nothing was written before the answer."""

    @property
    def connected(self) -> bool:
        return self.listening is not None and not self.listening.done()

    @property
    def healthy(self) -> bool:
        """Whether it takes what comes and acknowledges it."""
        return self.taking.is_set() and self.acking

    async def connect(self, chance: random.Random) -> None:
        """Subscribe, or resume by one of the spellings of its place; not while the API is away."""
        if self.connected or self.ended or self.world.api is None:
            return
        members = self.start.members if self.cursor is None else {"after": chance.choice(self._spellings())}
        floor = None if self.cursor is None else str(members["after"])
        raw = sockets.socket()
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, RECEIVE_BYTES)
        raw.setblocking(False)
        host, _, port = self.world.api.url.removeprefix("http://").partition(":")
        url = self.world.api.socket_url
        try:
            await asyncio.get_running_loop().sock_connect(raw, (host, int(port)))
            self._socket = await connect(url, sock=raw, compression=None, max_queue=2, ping_interval=None)
        except (OSError, InvalidHandshake):
            raw.close()
            return
        self._floors.append(floor)
        self._acks.clear()
        self.kinds.clear()
        self.given = None
        if self.cursor is None:
            self._quiet_ends = None if self.world.writing else self.world.ends()
        named = self.wish.scope if self.start.plain else {"type": "subscribe", "sub": "s", **self.wish.options}
        self.listening = asyncio.create_task(self._listen(self._socket, len(self._floors) - 1))
        with suppress(ConnectionClosed):
            await self._socket.send(json.dumps({**named, **members}))

    def _spellings(self) -> list[object]:
        """What may be said to resume: all of these lose nothing."""
        assert self.cursor is not None
        places: list[object] = [self.cursor] if self.given is None else [self.cursor, self.given]
        if self.frames:
            # One that it had stored a while ago: events come again.
            places.append(self.frames[len(self.frames) // 2]["cursor"])
        if "orderId" in self.wish.scope and self.frames and self.frames[-1]["cursor"] == self.cursor:
            order_id, seq = self.frames[-1]["orderId"], self.frames[-1]["seq"]
            places += [str(seq), event_id(order_id, seq)]
        return places

    async def _listen(self, socket: ClientConnection, number: int) -> None:
        try:
            with suppress(ConnectionClosed):
                while True:
                    await self.taking.wait()
                    self.hear({**json.loads(await socket.recv()), "over": number})
                    await self._acknowledge(socket)
        finally:
            self.codes.append(socket.close_code)
            self.progress.set()

    async def _acknowledge(self, socket: ClientConnection) -> None:
        while self.acking and self._acks:
            await socket.send(self._acks.pop(0))

    async def release(self) -> None:
        """Take what comes again, and acknowledge what was held back."""
        self.acking = True
        self.taking.set()
        if self._socket is not None and self.connected:
            with suppress(ConnectionClosed):
                await self._acknowledge(self._socket)

    async def cut(self) -> None:
        """Break the connection off, without a closing handshake."""
        if self._socket is not None and self.listening is not None:
            self._socket.transport.abort()
            self.taking.set()
            await self.listening

    async def sent_away(self) -> int | None:
        """Wait until the server ends the connection, and return its code."""
        assert self.listening is not None
        await self.listening
        return self.codes[-1]

    def say(self, **members: object) -> None:
        self._acks.append(json.dumps(members))

    def hear(self, frame: Frame) -> None:
        match frame.get("type"):
            case "goaway":
                self.given = frame.get("cursors", {}).get("s")
                self.progress.set()
                return
            case "subscribed":
                self._begin(frame)
            case "events":
                frame = {**frame, "items": [{**item, "over": frame["over"]} for item in frame["items"]]}
        super().hear(frame)

    def _begin(self, answer: Frame) -> None:
        if self.cursor is not None:
            return
        self.cursor = str(answer["after"])
        if self.world.writing or self._quiet_ends != self.world.ends():
            self._quiet_ends = None
        if self.after is None or self.start.last is not None:
            self.after = self._place(self.cursor)
        if self.start.members.get("snapshot"):
            assert str(answer["snapshot"]["asOf"]) in (self.cursor, str(answer["after"])) or "orderId" in answer
            self.shown = {order["orderId"]: order for order in answer["snapshot"]["orders"]}

    def _place(self, text: str) -> dict[int, int]:
        """The place that a cursor, a seq or an event id names."""
        if "orderId" in self.wish.scope:
            order_id = str(self.wish.scope["orderId"])
            number = partition_in(order_id)
            if text.count("-") == 2 and "/" not in text:
                position = int(text.split("-")[1])
                return {number: self.world.logs[number][position].event["seq"]}
            return {number: int(text.rpartition("/")[2])}
        if text == "start":
            return {}
        if "clientId" in self.wish.scope:
            return {partition_of(str(self.wish.scope["clientId"]), PARTITIONS): int(text.split("-")[1])}
        entries = [entry.split(".") for entry in text.split("~")]
        return {int(number): int(cursor.split("-")[1]) for number, cursor in entries}

    def _number(self, written: Written) -> int:
        return int(written.event["seq"]) if "orderId" in self.wish.scope else written.cursor.position

    def due(self) -> dict[int, list[Written]]:
        """What is to come of each partition, of what was written so far."""
        found: dict[int, list[Written]] = {number: [] for number in range(PARTITIONS)}
        for number in found:
            for written in self.world.log(number):
                if self.wish.wants(written.event, written.assets) and self._is_due(number, written):
                    found[number].append(written)
        return found

    def _is_due(self, number: int, written: Written) -> bool:
        if self.start.members.get("snapshot"):
            order = (self.shown or {}).get(written.event["orderId"], {"seq": 0})
            return self.shown is not None and bool(written.event["seq"] > order["seq"])
        return self.after is not None and self._number(written) > self.after.get(number, 0)

    def check(self) -> None:
        """Require that what came is what is due, unchanged, in order and without a gap; that not all is there is fine.

        Nothing may be being written meanwhile.
        """
        assert self.errors == []
        assert set(self.codes) <= SENT_AWAY, self.codes
        wanted = {
            written.key: written
            for number in self.world.logs
            for written in self.world.log(number)
            if self.wish.wants(written.event, written.assets)
        }
        self._check_connections(wanted)
        came: dict[int, list[Written]] = {number: [] for number in self.world.logs}
        seen: set[tuple[str, int]] = set()
        for frame in self.frames:
            written = wanted[frame["orderId"], frame["seq"]]
            self._check_frame(frame, written)
            if written.key not in seen:
                seen.add(written.key)
                came[partition_in(frame["orderId"])].append(written)
        due = self.due()
        for number, events in came.items():
            numbers = [self._number(written) for written in events]
            assert numbers == sorted(numbers)
            upto = numbers[-1] if numbers else 0
            missed = [one for one in due[number] if self._number(one) <= upto and one.key not in seen]
            assert missed == [], (missed, self.frames)
            if self.shown is None:
                assert events == due[number][: len(events)], (events, due[number])
        self._check_start(wanted)

    def _check_connections(self, wanted: Mapping[tuple[str, int], Written]) -> None:
        """Over one connection nothing comes twice, nor what the connection resumed after."""
        for over, text in enumerate(self._floors):
            last = {} if text is None else self._place(text)
            for frame in (frame for frame in self.frames if frame["over"] == over):
                number = self._number(wanted[frame["orderId"], frame["seq"]])
                partition = partition_in(frame["orderId"])
                assert number > last.get(partition, 0), (frame, text)
                last[partition] = number

    def _check_frame(self, frame: Frame, written: Written) -> None:
        assert {name: value for name, value in frame.items() if name not in ADDED} == written.event
        cursor = frame["cursor"]
        if self.wish.scope.get("scope") == "all":
            entries = dict(entry.split(".") for entry in cursor.split("~"))
            cursor = entries[str(partition_in(frame["orderId"]))]
        assert cursor == str(written.cursor)

    def _check_start(self, wanted: Mapping[tuple[str, int], Written]) -> None:
        """The place, or the snapshot, that the server chose is right."""
        if self.start.last is not None and self.after is not None and self._quiet_ends is not None:
            there = [one for one in wanted.values() if self._was_there(one)]
            after = [one for one in there if self._number(one) > self.after.get(partition_in(one.key[0]), 0)]
            assert len(after) == min(self.start.last, len(there)), (self.wish, self.start, self.after, there)
        for order in (self.shown or {}).values():
            [written] = [one for log in self.world.logs.values() for one in log.values() if one.key == _key(order)]
            assert (order["status"], order["clientId"]) == (written.event["status"], written.event["meta"]["client"])
            assert self.wish.scope.get("clientId", order["clientId"]) == order["clientId"]

    def _was_there(self, written: Written) -> bool:
        assert self._quiet_ends is not None
        return written.cursor.position <= self._quiet_ends[partition_in(written.key[0])]

    def has_everything(self) -> bool:
        """Whether everything that is due has come; False while it is not known what is."""
        seen = {(frame["orderId"], frame["seq"]) for frame in self.frames}
        begun = self.after is not None or self.shown is not None
        return begun and all(one.key in seen for log in self.due().values() for one in log)

    async def caught_up(self) -> None:
        """Return once it has everything, or the connection is gone."""
        while self.connected and not self.has_everything():
            self.progress.clear()
            await self.progress.wait()

    async def heard_caught_up(self) -> None:
        """Return once the server said that this connection caught up, or the connection is gone."""
        while self.connected and not self.ended and "caught_up" not in self.kinds:
            self.progress.clear()
            await self.progress.wait()


def _key(order: Frame) -> tuple[str, int]:
    return order["orderId"], order["seq"]

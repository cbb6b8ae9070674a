"""Subscriptions over plain HTTP, on the same cursors: Server-Sent Events, and answers that wait (long-poll)."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from app.api.access.entry import entry_of
from app.api.description.messages import StreamBegun, StreamCaughtUp, goaway_of, text_of
from app.api.problems import LOG_REWOUND, Closing, FieldError, ProblemError, unavailable
from app.api.requests import CLIENT_CHARACTERS_MAX, INTEGER, Form, Number, is_printable
from app.api.resume import parse_order_id
from app.api.streaming.places import LogPlace
from app.api.streaming.ring import Frame, LogNotChainedError, NotChainedError
from app.api.streaming.scopes import (
    FILTER_FIELDS,
    START_FIELDS,
    AllScope,
    ClientScope,
    OrderScope,
    Scope,
    fields_of,
    read_filter,
    read_start,
)
from app.api.streaming.sessions import CLOSE_SECONDS, Sessions
from app.api.streaming.subscriptions import Following, Started, Subscription, Wanted
from eventstore.errors import StoreUnavailableError
from eventstore.ids import Cursor

WAIT_SECONDS_MAX: Final = 60
EVENTS_LIMIT: Final = 100
EVENTS_LIMIT_MAX: Final = 1_000
BACK_OFF_SECONDS: Final = 0.5
RECONNECT_MS: Final = 2_000
CHUNK_CHARACTERS_MAX: Final = 48 * 1024
STREAM_QUERY: Final = (*START_FIELDS, *FILTER_FIELDS, "snapshot", "until", "wait", "limit")
_COUNTS: Final = ("last", "wait", "limit")
_GONE: Final = Closing(1001, "the client has left")

log: Final = logging.getLogger(__name__)


class Reader:
    """One subscription of one HTTP request: a :class:`Subscriber`, and a :class:`Watcher` of its topic."""

    def __init__(self, sessions: Sessions, wanted: Wanted) -> None:
        self.sessions: Final = sessions
        self.subscription: Final = Subscription(wanted, wanted.start)
        self.closing: Closing | None = None
        """Why it ends; None while it goes on."""
        self.closed: Final = asyncio.Event()
        self.ended = False
        """Nothing will ever follow."""
        self._wake = asyncio.Event()
        self._first: Following | None = None

    @property
    def place(self) -> str:
        """What to resume by."""
        return self.sessions.source.where(self.subscription)

    def end(self, closing: Closing | None) -> None:
        """See :meth:`Subscriber.end`."""
        self.closing = self.closing or closing or _GONE
        self.closed.set()
        self._wake.set()

    def tick(self, now: float) -> None:
        """See :meth:`Subscriber.tick`: whoever waits here has time-outs of its own."""

    def changed(self, topic: str, partition: int, before: Cursor) -> None:
        """See :meth:`Watcher.changed`."""
        self.subscription.place.woken(partition, before)
        self._wake.set()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Be told of events until the context closes."""
        self.sessions.ring.watch(self.subscription.topic, self)
        try:
            yield
        finally:
            self.sessions.ring.unwatch(self.subscription.topic, self)

    def is_over(self) -> bool:
        """Whether nothing is to be sent any more."""
        return self.ended or self.closing is not None

    async def begin(self) -> Started:
        """Check the place that was asked for.

        Raises:
            ProblemError: nothing goes on from there, or a server does not answer.
        """
        try:
            self._first = await self.sessions.source.following(self.subscription)
        except (StoreUnavailableError, LogNotChainedError) as error:
            raise unavailable("ask again") from error
        started = self._first.started
        assert started is not None
        self.ended = started.ended
        return started

    async def available(self) -> AsyncIterator[Frame | None]:
        """Yield the wanted events that follow the place, which moves with them, until nothing follows at the moment.

        None stands for many events that are not wanted: the place is worth telling.

        Raises:
            NotChainedError, LogNotChainedError, ProblemError, StoreUnavailableError: see :meth:`Source.following`.
        """
        source, subscription = self.sessions.source, self.subscription
        left_out, more, following = 0, not self.ended, Following()
        while more:
            following, self._first = self._first or await source.following(subscription), None
            for frame in following.frames:
                # First, as this may fail: then the event is still to come.
                is_wanted = await source.admits(subscription.wanted, frame)
                subscription.place.passed(frame)
                self.ended = frame.terminal and isinstance(subscription.scope, OrderScope)
                if is_wanted:
                    left_out = 0
                    yield frame
                else:
                    left_out += 1
                    if left_out % self.sessions.limits.bookmark_events == 0:
                        yield None
            more = following.more
        if following.frames and not source.is_settled(subscription):
            # Events that are not of this scope tell nobody that they came meanwhile.
            self._wake.set()

    async def wait(self, seconds: float) -> bool:
        """Wait for an event or the end, for so long at most; return whether one of them came."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True


class EventStream(Response):
    """An answer of Server-Sent Events that goes on until nothing will follow or the reader is ended.

    A client that takes no data is left without its end: the server breaks such a connection.
    """

    def __init__(self, reader: Reader, started: Started, held: ExitStack, head: str) -> None:
        self._reader = reader
        self._held = held
        self._limits = reader.sessions.limits
        self._sent_at = 0.0
        place = reader.place
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "Last-Event-ID": place}
        super().__init__(headers=headers, media_type="text/event-stream")
        # What follows has no known length.
        del self.headers["content-length"]
        scope = reader.subscription.scope
        begun = StreamBegun(
            **fields_of(scope),
            after=started.after,
            head=head,
            snapshot=started.snapshot,
        )
        self._text = f"retry: {RECONNECT_MS}\nid: {place}\n{_event('subscribed', begun)}"
        self._told = place

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Send it all."""
        with self._held:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            if scope["method"] == "HEAD":
                await send({"type": "http.response.body", "body": b""})
                return
            writing = asyncio.create_task(self._write(send))
            others = [asyncio.create_task(self._reader.closed.wait()), asyncio.create_task(self._listen(receive))]
            try:
                await asyncio.wait({writing, others[0]}, return_when=asyncio.FIRST_COMPLETED)
                # Whoever takes data is told of the end at once; the others are not waited for.
                await asyncio.wait({writing}, timeout=CLOSE_SECONDS)
            finally:
                for task in (writing, *others):
                    task.cancel()
            if writing.done():
                writing.result()

    async def _listen(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._reader.end(None)

    async def _write(self, send: Send) -> None:
        try:
            while not self._reader.is_over():
                if await self._write_available(send) and not self._reader.is_over():
                    await self._catch_up(send)
            if self._reader.closing is not None:
                self._text += f"event: goaway\ndata: {goaway_of(self._reader.closing, {})}\n\n"
            await self._flush(send, more=False)
        except TimeoutError:
            log.info("slow_reader_left", extra={"topic": self._reader.subscription.topic})

    async def _write_available(self, send: Send) -> bool:
        """Send what follows; return whether that was all."""
        reader = self._reader
        try:
            async for frame in reader.available():
                self._told = reader.subscription.place.text
                self._text += f"id: {self._told}\n"
                if frame is None:
                    self._text += "\n"
                else:
                    self._text += f"event: {frame.event}\ndata: {reader.subscription.text_of(frame)}\n\n"
                if len(self._text) > CHUNK_CHARACTERS_MAX:
                    await self._flush(send)
                if reader.closing is not None:
                    return False
        except StoreUnavailableError:
            await self._flush(send)
            await reader.wait(BACK_OFF_SECONDS)
            return False
        except (NotChainedError, LogNotChainedError, ProblemError):
            # Whoever comes back with the last id is told what became of it.
            reader.end(LOG_REWOUND)
        await self._flush(send)
        return True

    async def _catch_up(self, send: Send) -> None:
        reader = self._reader
        if reader.subscription.replaying:
            reader.subscription.replaying = False
            self._text += _event("caught_up", StreamCaughtUp(cursor=reader.place))
            await self._flush(send)
            if reader.subscription.wanted.until_caught_up:
                reader.ended = True
                return
        limits, now = self._limits, asyncio.get_running_loop().time
        while not await reader.wait(min(limits.bookmark_seconds, limits.heartbeat_seconds)):
            place = reader.place
            if place != self._told:
                self._text += f"id: {place}\n\n"
                self._told = place
            elif now() - self._sent_at >= limits.heartbeat_seconds:
                self._text += ": heartbeat\n\n"
            await self._flush(send)

    async def _flush(self, send: Send, *, more: bool = True) -> None:
        if not self._text and more:
            return
        text, self._text = self._text, ""
        async with asyncio.timeout(self._limits.send_seconds_max):
            await send({"type": "http.response.body", "body": text.encode(), "more_body": more})
        self._sent_at = asyncio.get_running_loop().time()


class StreamRoutes:
    """``/stream`` of one order, of one client, and of all."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [
            Route("/api/orders/{order_id}/stream", self.one, methods=["GET"]),
            Route("/api/clients/{client:path}/stream", self.client, methods=["GET"]),
            Route("/api/stream", self.all, methods=["GET"]),
        ]

    async def one(self, request: Request) -> Response:
        """Send the events of one order."""
        return await self._answer(request, OrderScope(parse_order_id(request.path_params["order_id"])))

    async def client(self, request: Request) -> Response:
        """Send the events of one client's orders."""
        client = request.path_params["client"]
        if not is_printable(client, CLIENT_CHARACTERS_MAX):
            raise ProblemError("invalid_query", f"a client has 1 to {CLIENT_CHARACTERS_MAX} printable characters")
        return await self._answer(request, ClientScope(client))

    async def all(self, request: Request) -> Response:
        """Send the events of all orders."""
        return await self._answer(request, AllScope())

    async def _answer(self, request: Request, scope: Scope) -> Response:
        entry = entry_of(request)
        try:
            await entry.principal.require_scope(scope)
        except StoreUnavailableError as error:
            raise unavailable("ask again") from error
        wanted, wait_seconds, limit = _read_query(request, scope)
        objection = self._sessions.objection
        if objection is not None:
            raise unavailable(objection.reason)
        reader = Reader(self._sessions, wanted)
        with ExitStack() as held:
            held.enter_context(entry.held_open(reader))
            held.enter_context(self._sessions.joined(reader))
            held.enter_context(reader.watching())
            started = await reader.begin()
            if wait_seconds is not None:
                return await _long_poll(reader, wait_seconds, limit)
            if started.ended or (wanted.until_caught_up and not await self._follows(reader, request)):
                return Response(status_code=204)
            head = self._sessions.source.head(entry.principal.partition)
            return EventStream(reader, started, held.pop_all(), head)

    async def _follows(self, reader: Reader, request: Request) -> bool:
        """Whether a client that comes back for what it lacks lacks anything."""
        place = reader.subscription.place
        if not isinstance(place, LogPlace) or "last-event-id" not in request.headers:
            return True
        frames, _ = await self._sessions.source.logs.following(place, 1)
        return bool(frames)


async def _long_poll(reader: Reader, wait_seconds: int, limit: int) -> Response:
    """Answer with the events that follow; if there are none, with those that come while the client waits."""
    texts: list[str] = []
    more = False
    deadline = asyncio.get_running_loop().time() + wait_seconds
    try:
        while not texts and not reader.is_over():
            async for frame in reader.available():
                if frame is not None:
                    texts.append(reader.subscription.text_of(frame))
                if len(texts) >= limit:
                    more = not reader.ended
                    break
            left = deadline - asyncio.get_running_loop().time()
            if not texts and not reader.is_over() and not await reader.wait(max(0, left)):
                break
    except StoreUnavailableError as error:
        raise unavailable("ask again") from error
    except (NotChainedError, LogNotChainedError) as error:
        raise unavailable("the event log was rewound: ask again by cursor") from error
    facts = f'"cursor":"{reader.place}","more":{_word(more)},"ended":{_word(reader.ended)}'
    return Response(f'{{{facts},"events":[{",".join(texts)}]}}', media_type="application/json")


def _read_query(request: Request, scope: Scope) -> tuple[Wanted, int | None, int]:
    """Return what a query asks for, the seconds to wait (None: stream), and how many events to answer with."""
    query = request.query_params
    members: dict[str, Any] = {}
    for name, value in query.multi_items():
        if len(query.getlist(name)) > 1:
            message = "must be given once"
            raise ProblemError("invalid_query", f"{name} {message}", [FieldError(f"/{name}", message)])
        members[name] = Number(value) if name in _COUNTS and INTEGER.fullmatch(value) else value
    resumed = request.headers.get("last-event-id")
    if resumed:
        # What a browser has seen since it asked for its first place.
        members = {name: value for name, value in members.items() if name not in (*START_FIELDS, "snapshot")}
        members["after"] = resumed
    form = Form(members)
    snapshot = form.take(("snapshot",))
    if snapshot not in (None, "true", "false"):
        form.refuse("snapshot", "must be true or false")
    until = form.take(("until",))
    if until not in (None, "caught_up") and not (until == "terminal" and isinstance(scope, OrderScope)):
        form.refuse("until", 'must be "caught_up", or, of one order, "terminal"')
    wanted = Wanted(
        scope=scope,
        start=read_start(form, scope, snapshot=snapshot == "true"),
        filter=read_filter(form),
        until_caught_up=until == "caught_up",
    )
    wait_seconds = form.whole("wait", 0, WAIT_SECONDS_MAX)
    limit = form.whole("limit", 1, EVENTS_LIMIT_MAX) or EVENTS_LIMIT
    form.refuse_unknown(STREAM_QUERY)
    form.finish("invalid_query")
    return wanted, wait_seconds, limit


def _event(kind: str, facts: Struct) -> str:
    return f"event: {kind}\ndata: {text_of(facts)}\n\n"


def _word(value: bool) -> str:
    return "true" if value else "false"

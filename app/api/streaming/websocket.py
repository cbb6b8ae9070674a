"""Order events on WebSockets: every subscription is a position in its order's stream, served from ring or store."""

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from typing import Any, Final

import msgspec
from msgspec import Struct
from starlette.websockets import WebSocket, WebSocketDisconnect

from app.api.orders.intake import Intake
from app.api.orders.request import OrderRequest
from app.api.problems import (
    DRAINING,
    LOG_REWOUND,
    SLOW,
    TOO_MANY_MESSAGES,
    TOO_MANY_SOCKETS,
    Closing,
    ProblemError,
    message_of,
)
from app.api.requests import parse_object
from app.api.resume import After, Resumed, parse_after, parse_order_id
from app.api.streaming.messages import (
    Cancel,
    Message,
    MessageId,
    Ping,
    Submit,
    Subscribe,
    Unsubscribe,
    message_id,
    read_message,
)
from app.api.streaming.ring import NotChainedError, Ring
from app.api.streaming.subscriptions import Source, Subscription
from app.clock import Clock
from eventstore.errors import StoreUnavailableError
from eventstore.ids import LOG_START, Cursor
from eventstore.store import EventStore

REQUESTS_MAX: Final = 64
REPLIES_MAX: Final = 256
BACK_OFF_SECONDS: Final = 0.5
CLOSE_SECONDS: Final = 1
DRAIN_SECONDS: Final = 3

log: Final = logging.getLogger(__name__)


class SocketLimits(Struct, frozen=True, kw_only=True):
    """Bounds of what sockets may hold."""

    sockets_max: int = 5_000
    subscriptions_max: int = 200
    """Per socket."""
    send_seconds_max: float = 10
    """A client that takes no data for longer is a slow consumer."""


class _SocketGoneError(Exception):
    """The socket cannot be written to any more."""


class Sessions:
    """All sockets of one process."""

    def __init__(self, *, store: EventStore, intake: Intake, ring: Ring, clock: Clock, limits: SocketLimits) -> None:
        self.source: Final = Source(store, ring)
        self.intake: Final = intake
        self.ring: Final = ring
        self.clock: Final = clock
        self.limits: Final = limits
        self.refusal: Closing | None = None
        """Why sockets are closed at once; None while they are welcome."""
        self._open: set[Session] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._open)

    async def endpoint(self, socket: WebSocket) -> None:
        """Serve one socket until either side ends it."""
        try:
            await socket.accept()
        except OSError:
            # The client left during the handshake.
            return
        session = Session(socket, self)
        refusal = self.refusal or (TOO_MANY_SOCKETS if len(self._open) >= self.limits.sockets_max else None)
        if refusal is not None:
            await session.close(refusal)
            return
        self._open.add(session)
        self._empty.clear()
        try:
            await session.run()
        finally:
            self._open.discard(session)
            if not self._open:
                self._empty.set()

    def refuse(self, closing: Closing) -> None:
        """End every socket, and each that comes from now on until :meth:`welcome`."""
        if self.refusal is not DRAINING:
            self.refusal = closing
        for session in self._open:
            session.end(closing)

    def welcome(self) -> None:
        """Take sockets again, unless the process is stopping."""
        if self.refusal is not DRAINING:
            self.refusal = None

    async def drain(self) -> None:
        """End every socket, telling its client to come back, and wait for that, a few seconds at most."""
        self.refuse(DRAINING)
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._empty.wait()
        except TimeoutError:
            log.warning("sockets_left", extra={"sockets": len(self._open)})


class Session:
    """One socket: a reader that never waits for anything else, and a writer that alone sends."""

    def __init__(self, socket: WebSocket, sessions: Sessions) -> None:
        self._socket = socket
        self._all = sessions
        self._subscriptions: dict[str, Subscription] = {}
        self._changed: dict[str, None] = {}
        self._replies: deque[str] = deque()
        self._wake = asyncio.Event()
        self._requests: set[asyncio.Task[None]] = set()
        self._ended: asyncio.Future[Closing | None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Serve an accepted socket."""
        self._take_query()
        try:
            async with asyncio.TaskGroup() as tasks:
                loops = [tasks.create_task(self._read(tasks)), tasks.create_task(self._write())]
                closing = await self._ended
                for task in (*loops, *self._requests):
                    task.cancel()
        finally:
            for subscription in list(self._subscriptions.values()):
                self._forget(subscription)
        if closing is not None:
            await self.close(closing)

    def end(self, closing: Closing | None) -> None:
        """End the session, with a close code unless the client is gone. Only the first call counts."""
        if not self._ended.done():
            self._ended.set_result(closing)

    def changed(self, topic: str, before: Cursor = LOG_START) -> None:
        """See :meth:`Watcher.changed`."""
        self._changed[topic] = None
        self._wake.set()

    async def close(self, closing: Closing) -> None:
        """Tell the client why, and close. A client that takes no data is left to the server."""
        goaway = msgspec.json.encode({"type": "goaway", "code": closing.code, "reason": closing.reason}).decode()
        messages = (
            {"type": "websocket.send", "text": goaway},
            {"type": "websocket.close", "code": closing.code, "reason": closing.reason},
        )
        try:
            for message in messages:
                await self._send_message(message, CLOSE_SECONDS)
        except (_SocketGoneError, TimeoutError):
            return

    async def _read(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                self.end(None)
                return
            self._take(message.get("text"), tasks)
            if self._replies:
                # Messages that came together are read without a pause: this is the writer's turn to answer.
                await asyncio.sleep(0)

    def _take(self, text: str | None, tasks: asyncio.TaskGroup) -> None:
        reply_to: MessageId = None
        try:
            if text is None:
                raise ProblemError("binary_frame", "send JSON in text frames")
            members = parse_object(text)
            reply_to = message_id(members)
            message = read_message(members, now_us=self._all.clock.now_us())
            self._obey(message, reply_to, tasks)
        except ProblemError as problem:
            self._reply(message_of(problem, reply_to))

    def _obey(self, message: Message, reply_to: MessageId, tasks: asyncio.TaskGroup) -> None:
        match message:
            case Submit(request):
                self._submit(request, reply_to, tasks)
            case Subscribe(order_id, after):
                self._subscribe(order_id, after, reply_to)
            case Unsubscribe(order_id):
                if order_id not in self._subscriptions:
                    raise ProblemError("not_subscribed", f"this socket does not receive order {order_id}")
                self._forget(self._subscriptions[order_id])
                self._answer("unsubscribed", reply_to, orderId=order_id)
            case Cancel(order_id):
                self._check_room()
                self._start(self._cancel(order_id, reply_to), tasks)
            case Ping():
                self._answer("pong", reply_to)

    def _take_query(self) -> None:
        query = self._socket.query_params
        names = [name for name in ("after", "lastEventId") if name in query]
        try:
            if len(names) > 1 or any(len(query.getlist(name)) > 1 for name in (*names, "orderId")):
                raise ProblemError("invalid_query", "give orderId once, and after or lastEventId once")
            if "orderId" not in query:
                if names:
                    raise ProblemError("invalid_query", f"{names[0]} needs orderId beside it")
                return
            order_id = parse_order_id(query["orderId"])
            self._subscribe(order_id, parse_after(query[names[0]], order_id) if names else 0, None)
        except ProblemError as problem:
            self._reply(message_of(problem))

    def _subscribe(self, order_id: str, after: After, reply_to: MessageId) -> None:
        if order_id in self._subscriptions:
            raise ProblemError("already_subscribed", f"this socket receives order {order_id} already", orderId=order_id)
        self._watch(Subscription(order_id, after, reply_to))
        self.changed(order_id)

    def _watch(self, subscription: Subscription) -> None:
        most = self._all.limits.subscriptions_max
        if len(self._subscriptions) >= most:
            raise ProblemError("too_many_subscriptions", f"a socket receives at most {most} orders at once")
        self._subscriptions[subscription.order_id] = subscription
        self._all.ring.watch(subscription.order_id, self)

    def _forget(self, subscription: Subscription) -> None:
        if self._is_current(subscription):
            del self._subscriptions[subscription.order_id]
            self._all.ring.unwatch(subscription.order_id, self)

    def _submit(self, request: OrderRequest, reply_to: MessageId, tasks: asyncio.TaskGroup) -> None:
        self._check_room()
        # Watching starts before the append, so that none of its events can be missed.
        subscription = Subscription(self._all.intake.new_order_id(request), None, reply_to)
        subscription.held = True
        self._watch(subscription)
        self._start(self._place(subscription, request), tasks)

    def _check_room(self) -> None:
        if len(self._requests) >= REQUESTS_MAX:
            raise ProblemError(
                "rate_limited",
                f"at most {REQUESTS_MAX} orders and cancellations of one socket are under way at once: "
                "send this one again",
            )

    def _start(self, request: Coroutine[Any, Any, None], tasks: asyncio.TaskGroup) -> None:
        task = tasks.create_task(request)
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)

    async def _cancel(self, order_id: str, reply_to: MessageId) -> None:
        try:
            cancel = await self._all.intake.cancel(order_id)
        except ProblemError as problem:
            self._reply(message_of(problem, reply_to, order_id))
            return
        self._answer(cancel.status, reply_to, orderId=order_id, seq=cancel.seq)

    async def _place(self, subscription: Subscription, request: OrderRequest) -> None:
        reply_to = subscription.reply_to
        try:
            placed = await self._all.intake.place(subscription.order_id, request)
        except ProblemError as problem:
            self._forget(subscription)
            self._reply(message_of(problem, reply_to))
            return
        if placed.repeated:
            self._forget(subscription)
        silent = placed.order_id in self._subscriptions and placed.repeated
        if reply_to is not None or silent:
            self._answer("accepted", reply_to, orderId=placed.order_id, duplicate=placed.repeated)
        if not placed.repeated:
            subscription.held = False
            if subscription.missed:
                self.changed(subscription.order_id)
        elif not silent:
            self._subscribe(placed.order_id, 0, None)

    def _answer(self, kind: str, reply_to: MessageId, **facts: str | int | bool) -> None:
        self._reply(_answer(kind, reply_to, facts))

    def _reply(self, text: str) -> None:
        if len(self._replies) >= REPLIES_MAX:
            self.end(TOO_MANY_MESSAGES)
            return
        self._replies.append(text)
        self._wake.set()

    async def _write(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._replies or self._changed:
                    while self._replies:
                        await self._send(self._replies.popleft())
                    if self._changed:
                        await self._serve(next(iter(self._changed)))
        except _SocketGoneError:
            self.end(None)
        except TimeoutError:
            self.end(SLOW)

    async def _serve(self, order_id: str) -> None:
        del self._changed[order_id]
        subscription = self._subscriptions.get(order_id)
        if subscription is None:
            return
        if subscription.held:
            subscription.missed = True
            return
        try:
            following = await self._all.source.following(subscription)
            if following.resumed is not None and self._is_current(subscription):
                await self._confirm(subscription, following.resumed)
        except NotChainedError:
            # The client has an event that did not last: it must come back with its cursor to be told so.
            self.end(LOG_REWOUND)
            return
        except ProblemError as problem:
            if self._is_current(subscription):
                self._forget(subscription)
                await self._send(message_of(problem, subscription.reply_to, order_id))
            return
        except StoreUnavailableError:
            # Nothing new can come from the log either, so no other subscription waits for this one.
            await self._all.clock.sleep(BACK_OFF_SECONDS)
            self.changed(order_id)
            return
        for frame in following.frames:
            if not self._is_current(subscription):
                return
            await self._send(frame.text)
            subscription.seq, subscription.anchor = frame.seq, frame.anchor
            if frame.terminal:
                self._forget(subscription)
                return
        if following.more:
            self.changed(order_id)

    def _is_current(self, subscription: Subscription) -> bool:
        """Whether the client still wants it: it may change its mind while the writer waits."""
        return self._subscriptions.get(subscription.order_id) is subscription

    async def _confirm(self, subscription: Subscription, resumed: Resumed) -> None:
        """Answer the request to subscribe, if it asked for that or if no event will."""
        if subscription.reply_to is not None or resumed.ended:
            facts = {"orderId": subscription.order_id, "after": resumed.seq, "ended": resumed.ended}
            await self._send(_answer("subscribed", subscription.reply_to, facts))
        if resumed.ended:
            self._forget(subscription)

    async def _send(self, text: str) -> None:
        await self._send_message({"type": "websocket.send", "text": text}, self._all.limits.send_seconds_max)

    async def _send_message(self, message: dict[str, Any], seconds_max: float) -> None:
        try:
            async with asyncio.timeout(seconds_max):
                await self._socket.send(message)
        except (WebSocketDisconnect, RuntimeError) as error:
            # Which of the two depends on who noticed first that the socket is closed.
            raise _SocketGoneError from error


def _answer(kind: str, reply_to: MessageId, facts: dict[str, Any]) -> str:
    body = {"type": kind} if reply_to is None else {"type": kind, "id": reply_to}
    return msgspec.json.encode({**body, **facts}).decode()

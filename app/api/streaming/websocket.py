"""One WebSocket: a reader that obeys and never waits, a writer that alone sends, and the requests that take time."""

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any, Final

from msgspec.structs import replace
from starlette.websockets import WebSocket, WebSocketDisconnect

from app.api.access.entry import Entry
from app.api.access.introduction import confirmed, introduced
from app.api.access.limits import HELLO_SECONDS
from app.api.description.messages import (
    Accepted,
    Cancelled,
    CancelPending,
    Heartbeat,
    Pong,
    Unsubscribed,
    goaway_of,
    text_of,
)
from app.api.families.dialects import Asked, Dialect, Family
from app.api.orders.request import OrderRequest
from app.api.problems import (
    SLOW,
    TOO_MANY_MESSAGES,
    UNAUTHENTICATED,
    Closing,
    ProblemError,
    closing_of,
    message_of,
    response_of,
)
from app.api.streaming.deliveries import Deliveries, Feed, frames_of, texts_max_in
from app.api.streaming.messages import (
    VERSION,
    Ack,
    Cancel,
    Hello,
    Message,
    MessageId,
    Ping,
    Submit,
    Subscribe,
    Unsubscribe,
    asked_by_url,
    message_id,
    read_members,
    read_message,
    read_url,
)
from app.api.streaming.scopes import OrderScope
from app.api.streaming.sessions import CLOSE_SECONDS, REQUESTS_MAX, Sessions
from app.api.streaming.subscriptions import Wanted
from eventstore.ids import Cursor

REPLIES_MAX: Final = 256
SECOND_HELLO: Final = Closing(4409, "hello was said before")
SUBPROTOCOL: Final = f"ordertape.v{VERSION}"
FOREIGN_SUBPROTOCOL: Final = Closing(4406, f"offer the subprotocol {SUBPROTOCOL}, or none")
FOREIGN_VERSION: Final = Closing(4406, f"this server speaks version {VERSION} of the protocol")


class _SocketGoneError(Exception):
    """The socket cannot be written to any more."""


async def serve_socket(socket: WebSocket, sessions: Sessions, family: Family, entry: Entry) -> None:
    """Serve one socket until either side ends it.

    Args:
        family: how its path's plain frames are written.
        entry: who opened it.
    """
    offered: list[str] = socket.scope.get("subprotocols") or []
    refusal = None if not offered or SUBPROTOCOL in offered else FOREIGN_SUBPROTOCOL
    if refusal is not None and "origin" not in socket.headers:
        unknown = ProblemError("subprotocol_unknown", refusal.reason)
        await socket.send_denial_response(response_of(unknown, socket.url.path))
        return
    try:
        # A page sees nothing of a refused handshake, nor of one that names none of the protocols that it offered.
        await socket.accept(offered[0] if refusal is not None else SUBPROTOCOL if offered else None)
    except OSError:
        # The client left during the handshake.
        return
    session = Session(socket, sessions, family, entry)
    refusal = refusal or sessions.objection or entry.closing
    if refusal is not None:
        await session.close(refusal)
        return
    try:
        with entry.held_open(session), sessions.joined(session):
            await session.run()
    except ProblemError as problem:
        await session.close(closing_of(problem))


class Session:
    """One socket."""

    def __init__(self, socket: WebSocket, sessions: Sessions, family: Family, entry: Entry) -> None:
        self._socket = socket
        self._family = family
        self._all = sessions
        self._entry = entry
        self.texts_max: Final = texts_max_in(socket.scope)
        self._replies: deque[str] = deque()
        self._wake = asyncio.Event()
        self._deliveries = Deliveries(sessions, self, self._wake, entry)
        self._requests: set[asyncio.Task[None]] = set()
        self._greeted = False
        self._sent_at = 0.0
        self._ended: asyncio.Future[Closing | None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Serve an accepted socket."""
        deadline = None
        if self._entry.known is not None:
            self._take_url()
        else:
            deadline = asyncio.get_running_loop().call_later(HELLO_SECONDS, self._miss_hello)
        try:
            async with asyncio.TaskGroup() as tasks:
                loops = [tasks.create_task(self._read(tasks)), tasks.create_task(self._write())]
                closing = await self._ended
                for task in (*loops, *self._requests):
                    task.cancel()
            if closing is not None:
                await self.close(closing)
        finally:
            self._deliveries.forget_all()
            if deadline is not None:
                deadline.cancel()

    def end(self, closing: Closing | None) -> None:
        """See :meth:`Subscriber.end`."""
        if not self._ended.done():
            self._ended.set_result(closing)

    def tick(self, now: float) -> None:
        """See :meth:`Subscriber.tick`."""
        if self._replies:
            # Whoever does not take answers is told nothing on top.
            return
        self._deliveries.tick(now)
        if self._greeted and now - self._sent_at >= self._all.limits.heartbeat_seconds:
            self.reply(text_of(Heartbeat(t=self._all.clock.now_us() // 1_000, head=self._head())))

    async def close(self, closing: Closing) -> None:
        """Tell the client why, and close. A client that takes no data is left to the server."""
        messages = (
            {"type": "websocket.send", "text": goaway_of(closing, self._deliveries.cursors())},
            {"type": "websocket.close", "code": closing.code, "reason": closing.reason},
        )
        try:
            for one in messages:
                await self._send_message(one, CLOSE_SECONDS)
        except (_SocketGoneError, TimeoutError):
            return

    async def _read(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            received = await self._socket.receive()
            if received["type"] == "websocket.disconnect":
                self.end(None)
                return
            if self._entry.known is None:
                await self._introduce(received.get("text"))
            else:
                self._take(received.get("text"), tasks)
            if self._replies:
                # Messages that came together are read without a pause: this is the writer's turn to answer.
                await asyncio.sleep(0)

    async def _introduce(self, text: str | None) -> None:
        hello = await introduced(self._entry, text)
        if isinstance(hello, Closing):
            self.end(hello)
            return
        self._greet(hello[0].version, hello[1])
        self._take_url()

    def _miss_hello(self) -> None:
        if self._entry.known is None:
            self.end(UNAUTHENTICATED)

    def _take(self, text: str | None, tasks: asyncio.TaskGroup) -> None:
        reply_to: MessageId = None
        members: dict[str, Any] = {}
        asked: Asked = "members"
        problem: ProblemError | None = None
        try:
            members, asked = read_members(text)
            reply_to = message_id(members)
        except ProblemError as found:
            problem = found
        try:
            closing = self._entry.take_message(ack=members.get("type") == "ack")
            if closing is not None:
                self.end(closing)
                return
            if problem is not None:
                raise problem
            claim = self._entry.principal.claimed
            said = read_message(members, now_us=self._all.clock.now_us(), claim=claim)
            self._obey(said, reply_to, self._family.get(asked), tasks)
        except ProblemError as found:
            self.reply(message_of(found, reply_to, self._told_as(found)))

    def _told_as(self, problem: ProblemError) -> dict[str, str]:
        """Return how clients of others read a refusal; they do not know ours."""
        return {"error": problem.detail} if self._family else {}

    def _obey(self, said: Message, reply_to: MessageId, dialect: Dialect | None, tasks: asyncio.TaskGroup) -> None:
        match said:
            case Hello(version, None):
                self._greet(version, reply_to)
            case Hello(version, str(token)):
                self._start(self._greet_again(version, token, reply_to), tasks)
            case Submit(request, follow):
                # Watching starts before the append, so that none of its events can be missed.
                order_id = self._all.intake.new_order_id(request)
                wanted = Wanted(scope=OrderScope(order_id), start=0, name=follow)
                self._submit(request, Feed(wanted, None, reply_to, dialect), tasks)
            case Subscribe(wanted):
                self._subscribe(Feed(wanted, wanted.start, reply_to, dialect))
            case Unsubscribe(key):
                self._unsubscribe(key, reply_to)
            case Ack(key, cursor):
                # The last event's may come after the subscription has ended: only who asks for an answer gets one.
                if key in self._deliveries or reply_to is not None:
                    self._deliveries.acknowledge(key, cursor)
            case Cancel(order_id):
                self._check_room()
                self._start(self._cancel(order_id, reply_to), tasks)
            case Ping(t):
                self.reply(text_of(Pong(id=reply_to, t=t)))

    def _greet(self, version: int, reply_to: MessageId) -> None:
        if self._greeted:
            self.end(SECOND_HELLO)
        elif version != VERSION:
            self.end(FOREIGN_VERSION)
        else:
            self._greeted = True
            self.reply(text_of(self._all.welcome_of(self._entry.principal, reply_to)))

    async def _greet_again(self, version: int, token: str, reply_to: MessageId) -> None:
        closing = await confirmed(self._entry, token)
        if closing is not None:
            self.end(closing)
        else:
            self._greet(version, reply_to)

    def _head(self) -> str:
        known = self._entry.known
        return self._all.source.head(None if known is None else known.partition)

    def _take_url(self) -> None:
        try:
            wanted = read_url(self._socket.path_params.get("order_id"), self._socket.query_params)
            if wanted is not None:
                asked = asked_by_url(wanted.scope)
                self._subscribe(Feed(wanted, wanted.start, None, self._family.get(asked)))
        except ProblemError as problem:
            self.reply(message_of(problem, None, self._told_as(problem)))

    def _subscribe(self, feed: Feed) -> None:
        self._deliveries.watch(feed)
        self._deliveries.again(feed.key)

    def _unsubscribe(self, key: str, reply_to: MessageId) -> None:
        feed = self._deliveries.get(key)
        if feed is None:
            raise ProblemError("not_subscribed", f"this socket has no subscription {key}")
        unsubscribed = Unsubscribed(id=reply_to, **feed.fields)
        if feed.wanted.name is not None:
            cursor = feed.place.text if feed.start is None else None
            unsubscribed = replace(unsubscribed, reason="client", cursor=cursor)
        self._deliveries.forget(feed)
        self.reply(text_of(unsubscribed))

    def _submit(self, request: OrderRequest, feed: Feed, tasks: asyncio.TaskGroup) -> None:
        self._check_room()
        feed.held = True
        self._deliveries.watch(feed)
        self._start(self._place(feed, feed.topic, request), tasks)

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
            await self._entry.principal.require_cancelling(order_id)
            cancel = await self._all.intake.cancel(order_id)
        except ProblemError as problem:
            self.reply(message_of(problem, reply_to, {"orderId": order_id, **self._told_as(problem)}))
            return
        kind = CancelPending if cancel.status == "cancel_pending" else Cancelled
        self.reply(text_of(kind(id=reply_to, order_id=order_id, seq=cancel.seq, cursor=_text_of(cancel.cursor))))

    async def _place(self, feed: Feed, order_id: str, request: OrderRequest) -> None:
        try:
            placed = await self._all.intake.place(order_id, request)
        except ProblemError as problem:
            self._deliveries.forget(feed)
            self.reply(message_of(problem, feed.reply_to, self._told_as(problem)))
            return
        follow = feed.wanted.name
        if placed.repeated:
            self._deliveries.forget(feed)
        silent = (follow or placed.order_id) in self._deliveries and placed.repeated
        if feed.reply_to is not None or silent or follow is not None:
            accepted = Accepted(
                id=feed.reply_to,
                order_id=placed.order_id,
                duplicate=placed.repeated,
                cursor=_text_of(placed.cursor),
                sub=follow,
            )
            self.reply(text_of(accepted))
        if not placed.repeated:
            feed.held = False
            if feed.missed:
                self._deliveries.again(feed.key)
        elif not silent:
            wanted = Wanted(scope=OrderScope(placed.order_id), start=0, name=follow)
            self._subscribe(Feed(wanted, 0, None, feed.dialect))

    def reply(self, text: str) -> None:
        """See :meth:`Outlet.reply`."""
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
                while self._replies or self._deliveries.due:
                    while self._replies:
                        await self.send(self._replies.popleft())
                    if self._deliveries.due:
                        await self._deliveries.serve()
        except _SocketGoneError:
            self.end(None)
        except TimeoutError:
            self.end(SLOW)

    async def send(self, *texts: str) -> None:
        """See :meth:`Outlet.send`."""
        await self._send_message(frames_of(texts), self._all.limits.send_seconds_max)
        self._sent_at = asyncio.get_running_loop().time()

    async def _send_message(self, one: dict[str, Any], seconds_max: float) -> None:
        try:
            async with asyncio.timeout(seconds_max):
                await self._socket.send(one)
        except (WebSocketDisconnect, RuntimeError) as error:
            # Which of the two depends on who noticed first that the socket is closed.
            raise _SocketGoneError from error


def _text_of(cursor: Cursor | None) -> str | None:
    return None if cursor is None else str(cursor)

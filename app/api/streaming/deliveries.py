"""Deliveries: the subscriptions of one socket, served in turn, each from its place, as far as its client has room."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from app.api.access.entry import Entry
from app.api.description.messages import Bookmark, CaughtUp, Lagging, Subscribed, Unsubscribed, text_of
from app.api.families.aliases import Update
from app.api.families.dialects import Dialect
from app.api.problems import LOG_REWOUND, SLOW, Closing, ProblemError, message_of
from app.api.streaming.messages import MessageId
from app.api.streaming.ring import LogNotChainedError, NotChainedError
from app.api.streaming.scopes import OrderScope, Start, facts_of, fields_of
from app.api.streaming.sessions import Sessions
from app.api.streaming.subscriptions import Following, Started, Subscription, Wanted
from eventstore.errors import StoreUnavailableError
from eventstore.ids import Cursor

BACK_OFF_SECONDS: Final = 0.5
BATCH_CHARACTERS_MAX: Final = 48 * 1024
TEXTS: Final = "ordertape.texts"
"""An extension of ASGI: the member of a ``websocket.send`` that has several texts, each to be sent as a frame."""
TEXTS_MAX: Final = 100


def texts_max_in(scope: Mapping[str, Any]) -> int:
    """Return how many frames a server takes in one message."""
    return TEXTS_MAX if TEXTS in scope.get("extensions", {}) else 1


def frames_of(texts: Sequence[str]) -> dict[str, Any]:
    """Return the message that sends ``texts``, each as a frame."""
    return {"type": "websocket.send", **({"text": texts[0]} if len(texts) == 1 else {TEXTS: texts})}


class Outlet(Protocol):
    """The socket that deliveries go to."""

    @property
    def texts_max(self) -> int:
        """How many frames may be sent together."""
        ...

    async def send(self, *texts: str) -> None:
        """Send frames, and wait until there is room for more. Only the writer may call it."""
        ...

    def reply(self, text: str) -> None:
        """Let the writer send it before any event."""
        ...

    def end(self, closing: Closing | None) -> None:
        """See :meth:`Subscriber.end`."""
        ...


class Feed(Subscription):
    """A subscription of a socket."""

    def __init__(
        self, wanted: Wanted, start: Start | None, reply_to: MessageId, dialect: Dialect | None = None
    ) -> None:
        super().__init__(wanted, start)
        self.dialect: Final = dialect if wanted.name is None else None
        """How its events are written; None: as they are stored."""
        self.key: Final = wanted.name or self.topic
        self.reply_to: Final = reply_to
        self.held = False
        """Its order is being appended: events wait until the append has answered."""
        self.ended = False
        """Its order's last event has been passed."""
        self.missed = False
        """The ring told of an event while it was held."""
        self.given: str | None = None
        """The cursor that everything sent leads to; None before anything was sent."""
        self.told = ""
        """The cursor that its client has, or will have once the answers that wait are sent."""
        self.told_at = 0.0
        self.left_out = 0
        """Events since then that it does not want."""
        self.behind_since: float | None = None
        """When it was told of an event that it has not caught up with; None before it caught up for the first time."""
        self.lagging_since: float | None = None

    def told_as(self, update: Update) -> str:
        """Return the event that was just passed in the client's own dialect."""
        assert self.dialect is not None
        return self.dialect.text_of(update, self.place.text)

    @property
    def names(self) -> dict[str, str]:
        """What its messages are known by."""
        return {"sub": self.key} if self.wanted.name is not None else facts_of(self.scope)

    @property
    def fields(self) -> dict[str, Any]:
        """The same for the Structs of messages."""
        return {"sub": self.key} if self.wanted.name is not None else fields_of(self.scope)


class Deliveries:
    """The subscriptions of one socket."""

    def __init__(self, sessions: Sessions, outlet: Outlet, wake: asyncio.Event, entry: Entry) -> None:
        self._sessions = sessions
        self._outlet = outlet
        self._wake = wake
        self._entry = entry
        self._feeds: dict[str, Feed] = {}
        self._by_topic: dict[str, dict[str, Feed]] = {}
        self._due: dict[str, None] = {}

    @property
    def due(self) -> bool:
        """Whether :meth:`serve` has anything to do."""
        return bool(self._due)

    def __contains__(self, key: str) -> bool:
        return key in self._feeds

    def get(self, key: str) -> Feed | None:
        """Return the subscription of that name."""
        return self._feeds.get(key)

    def watch(self, feed: Feed) -> None:
        """Add a subscription; it is served when something comes, or after :meth:`again`.

        Raises:
            ProblemError: ``already_subscribed`` or ``too_many_subscriptions``.
        """
        most = self._sessions.limits.subscriptions_max
        if feed.key in self._feeds:
            detail = f"this socket has the subscription {feed.key} already"
            raise ProblemError("already_subscribed", detail, (), **feed.names)
        if len(self._feeds) >= most:
            raise ProblemError("too_many_subscriptions", f"a socket has at most {most} subscriptions at once")
        self._feeds[feed.key] = feed
        self._by_topic.setdefault(feed.topic, {})[feed.key] = feed
        self._sessions.ring.watch(feed.topic, self)

    def forget(self, feed: Feed) -> None:
        """Send no more of a subscription. Idempotent."""
        if not self._is_current(feed):
            return
        del self._feeds[feed.key]
        sharing = self._by_topic[feed.topic]
        del sharing[feed.key]
        if not sharing:
            del self._by_topic[feed.topic]
            self._sessions.ring.unwatch(feed.topic, self)

    def forget_all(self) -> None:
        """Send nothing any more."""
        for feed in list(self._feeds.values()):
            self.forget(feed)

    def again(self, key: str) -> None:
        """Look at a subscription when it is its turn."""
        self._due[key] = None
        self._wake.set()

    def changed(self, topic: str, partition: int, before: Cursor) -> None:
        """See :meth:`Watcher.changed`."""
        for feed in self._by_topic.get(topic, {}).values():
            feed.place.woken(partition, before)
            if not feed.replaying and feed.behind_since is None:
                feed.behind_since = asyncio.get_running_loop().time()
            self.again(feed.key)

    def acknowledge(self, key: str, cursor: str) -> None:
        """Give a subscription room for further events.

        Raises:
            ProblemError: ``not_subscribed``, ``invalid_message``.
        """
        feed = self._feeds.get(key)
        if feed is None:
            raise ProblemError("not_subscribed", f"this socket has no subscription {key}")
        feed.acknowledge(cursor)
        self.again(key)

    def cursors(self) -> dict[str, str]:
        """Return what to resume each named subscription by: places that nothing unsent is before."""
        return {key: feed.given for key, feed in self._feeds.items() if feed.given is not None}

    def tick(self, now: float) -> None:
        """Tell of places that moved without an event, and of subscriptions that do not keep up."""
        limits = self._sessions.limits
        for feed in tuple(self._feeds.values()):
            if feed.wanted.name is None or feed.start is not None or feed.held:
                continue
            if now - feed.told_at >= limits.bookmark_seconds and self._sessions.source.where(feed) != feed.told:
                self._outlet.reply(self._bookmark(feed))
            if feed.behind_since is not None:
                self._check_lag(feed, now, feed.behind_since)

    def _check_lag(self, feed: Feed, now: float, behind_since: float) -> None:
        limits = self._sessions.limits
        behind = self._sessions.source.behind(feed)
        if feed.lagging_since is not None:
            if now - feed.lagging_since >= limits.lag_close_seconds:
                self._outlet.end(SLOW)
        elif now - behind_since >= limits.lag_seconds_max or behind > limits.lag_events_max:
            feed.lagging_since = now
            close_in_ms = int(limits.lag_close_seconds * 1_000)
            lagging = Lagging(**feed.fields, cursor=feed.place.text, behind=behind, close_in_ms=close_in_ms)
            self._outlet.reply(text_of(lagging))

    async def serve(self) -> None:
        """Send what follows the place of the subscription whose turn it is, one page at most."""
        key = next(iter(self._due))
        del self._due[key]
        feed = self._feeds.get(key)
        if feed is None:
            return
        if feed.held:
            feed.missed = True
            return
        if feed.room <= 0:
            # An acknowledgement makes it due again.
            return
        try:
            read_at = asyncio.get_running_loop().time()
            if feed.start is not None:
                await self._entry.principal.require_scope(feed.scope)
            following = await self._sessions.source.following(feed)
            if following.started is not None and self._is_current(feed):
                await self._confirm(feed, following.started)
            if await self._deliver(feed, following):
                await self._catch_up(feed, following, read_at)
        except (NotChainedError, LogNotChainedError):
            # The client has an event that did not last: it must come back with its cursor to be told so.
            self._outlet.end(LOG_REWOUND)
        except ProblemError as problem:
            if self._is_current(feed):
                self.forget(feed)
                told = {} if feed.dialect is None else {"error": problem.detail}
                await self._outlet.send(message_of(problem, feed.reply_to, {**feed.names, **told}))
        except StoreUnavailableError:
            # Nothing new can come from the log either, so no other subscription waits for this one.
            await self._sessions.clock.sleep(BACK_OFF_SECONDS)
            self.again(key)

    def _is_current(self, feed: Feed) -> bool:
        """Whether the client still wants it: it may change its mind while the writer waits."""
        return self._feeds.get(feed.key) is feed

    async def _confirm(self, feed: Feed, started: Started) -> None:
        """Answer the request to subscribe, if it asked for that or if no event will."""
        named = feed.wanted.name is not None
        if named or feed.reply_to is not None or started.ended:
            ended, head = (
                (started.ended, None)
                if isinstance(feed.scope, OrderScope)
                else (None, self._sessions.source.head_of(feed.scope))
            )
            subscribed = Subscribed(
                id=feed.reply_to,
                sub=feed.key if named else None,
                **fields_of(feed.scope),
                after=started.after,
                ended=ended,
                head=head,
                snapshot=started.snapshot,
            )
            await self._give(feed, text_of(subscribed))
        if started.ended:
            await self._complete(feed)

    async def _deliver(self, feed: Feed, following: Following) -> bool:
        """Send what follows, as far as there is room; return whether that is all that there was."""
        texts: list[str] = []
        try:
            is_all = await self._pass_on(feed, following, texts)
        except (StoreUnavailableError, LogNotChainedError):
            # The place is after these already.
            await self._flush(feed, texts)
            raise
        await self._flush(feed, texts)
        if is_all and feed.ended:
            await self._complete(feed)
            return False
        if is_all and following.more:
            self.again(feed.key)
        return is_all and not following.more and self._is_current(feed)

    async def _pass_on(self, feed: Feed, following: Following, texts: list[str]) -> bool:
        """Move the place over what follows, and send of it what is wanted; the last of that is left in ``texts``."""
        size = 0
        for frame in following.frames:
            # First, as this may fail: then the event is still to come.
            is_wanted = await self._sessions.source.admits(feed.wanted, frame)
            update = None
            if is_wanted and feed.dialect is not None:
                update = await self._sessions.source.update_of(frame, feed.dialect)
            if feed.room <= 0 or not self._is_current(feed):
                return False
            feed.place.passed(frame)
            if is_wanted:
                feed.sent(frame)
                texts.append(feed.text_of(frame) if update is None else feed.told_as(update))
                size += len(texts[-1])
                if len(texts) >= (feed.wanted.batch or self._outlet.texts_max) or size > BATCH_CHARACTERS_MAX:
                    await self._flush(feed, texts)
                    size = 0
            else:
                await self._leave_out(feed, texts)
            feed.ended = frame.terminal and isinstance(feed.scope, OrderScope)
        return True

    async def _leave_out(self, feed: Feed, texts: list[str]) -> None:
        feed.left_out += 1
        if feed.wanted.name is not None and feed.left_out >= self._sessions.limits.bookmark_events:
            await self._flush(feed, texts)
            await self._give(feed, self._bookmark(feed))

    async def _flush(self, feed: Feed, texts: list[str]) -> None:
        if not texts:
            return
        together = tuple(texts)
        if feed.wanted.batch is not None:
            sub = msgspec.json.encode(feed.key).decode()
            together = (f'{{"type":"events","sub":{sub},"items":[{",".join(texts)}]}}',)
        texts.clear()
        await self._give(feed, *together)

    async def _catch_up(self, feed: Feed, following: Following, read_at: float) -> None:
        """Take note that everything up to ``read_at`` was sent; what came since does not count against the client."""
        if not self._sessions.source.is_settled(feed) and following.frames:
            self.again(feed.key)
        feed.behind_since, feed.lagging_since = read_at if feed.key in self._due else None, None
        if not feed.replaying:
            return
        feed.replaying = False
        if feed.wanted.name is not None:
            await self._give(feed, text_of(CaughtUp(**feed.fields, cursor=feed.place.text)))
        if feed.wanted.until_caught_up:
            await self._complete(feed)

    async def _complete(self, feed: Feed) -> None:
        if feed.wanted.name is not None and self._is_current(feed):
            completed = Unsubscribed(**feed.fields, reason="completed", cursor=feed.place.text)
            self.forget(feed)
            await self._outlet.send(text_of(completed))
        self.forget(feed)

    async def _give(self, feed: Feed, *texts: str) -> None:
        """Send what brings its client to the place."""
        self._told(feed)
        place = feed.told
        await self._outlet.send(*texts)
        if feed.wanted.name is not None:
            feed.given = place

    def _bookmark(self, feed: Feed) -> str:
        self._told(feed)
        return text_of(Bookmark(**feed.fields, cursor=feed.told))

    def _told(self, feed: Feed) -> None:
        if feed.wanted.name is not None:
            feed.told, feed.left_out = feed.place.text, 0
            feed.told_at = asyncio.get_running_loop().time()

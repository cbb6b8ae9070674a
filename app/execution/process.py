"""The order process: what a worker does for one task, step by step, each step an append."""

import logging
from collections.abc import Callable, Sequence
from typing import Final, assert_never

from msgspec import Struct

from app.clock import Clock
from app.dex.draws import draw_below
from app.dex.router import collect, recorded_quotes, select
from app.dex.venue import Venue
from app.execution.coalesce import Shared
from app.execution.streams import OrderHead, OrderStreams
from app.execution.submission import Submission, swap_of
from app.orders.commands import Command, RetryDraw, RouteAttempt, StartAttempt
from app.orders.errors import UndefinedTransitionError
from app.orders.state import (
    Absent,
    Accepted,
    Building,
    Confirmed,
    Exhausted,
    Failed,
    Quoted,
    Routing,
    Submitted,
    Terms,
    Waiting,
)
from eventstore.levels import Level
from eventstore.store import EventStore, Task

log = logging.getLogger(__name__)

Reach = Callable[[str, str], None]
"""Called with the name of a crash point and the order id whenever execution passes it."""

JITTER_PPM: Final = 1_000_001


def unwatched(point: str, order_id: str) -> None:
    """Do nothing: outside the crash tests a crash point costs one call."""


class ProcessSettings(Struct, frozen=True, kw_only=True):
    """The bounds of one task, and what its draws are made from."""

    seed: str
    speed_ppm: int
    quote_timeout_ms: int
    task_ms: int
    """A task ends within this time; what is undecided then becomes a timer."""
    intent_level: Level
    """What a recorded intent must be worth before its swap is sent."""


class OrderProcess:
    """Advances an order from wherever its stream stands to where no work is left now.

    Args:
        store: acknowledges tasks without events.
        streams: loads and appends orders.
        venues: asked for quotes, in the fixed order that breaks ties.
        slots: the chain's current slot.
        submission: signs, sends and resolves swaps.
        clock: bounds a task.
        settings: see :class:`ProcessSettings`.
        reach: watches the crash points.
    """

    def __init__(  # noqa: PLR0913 - the composition root hands every collaborator in by name
        self,
        *,
        store: EventStore,
        streams: OrderStreams,
        venues: Sequence[Venue],
        slots: Shared[int],
        submission: Submission,
        clock: Clock,
        settings: ProcessSettings,
        reach: Reach = unwatched,
    ) -> None:
        self._store = store
        self._streams = streams
        self._venues = venues
        self._slots = slots
        self._submission = submission
        self._clock = clock
        self._settings = settings
        self._reach = reach

    async def advance(self, task: Task) -> None:
        """Do what the order of ``task`` needs now, until the task is finished.

        Safe at any time, in any number of workers: whoever appends first at a version wins.

        Raises:
            WrongVersionError: another worker advances the order.
            EventStoreError, ChainError: an outage; leave the task, it will be claimed.
            UndefinedTransitionError: the stream cannot be folded.
        """
        deadline_us = self._clock.now_us() + self._settings.task_ms * 1_000
        order = await self._streams.load(task.stream)
        if isinstance(order.state, Submitted):
            # Recorded by another task, which may have ended before its intent was worth enough to be sent.
            await self._streams.confirm(order, self._settings.intent_level)
        sent = False
        while True:
            command = await self._next_command(order, deadline_us, sent)
            if command is None:
                await self._store.finish_task(task)
                return
            sent = isinstance(order.state, Building)
            level = self._settings.intent_level if sent else None
            recorded = await self._streams.record(order, command, task, level=level)
            order = recorded.order
            if sent:
                await self._submission.send_intent(order)
            if recorded.finished:
                return

    async def _next_command(self, order: OrderHead, deadline_us: int, sent: bool) -> Command | None:
        match order.state:
            case Absent() | Confirmed() | Failed():
                return None
            case Accepted() | Waiting():
                self._reach("K2", order.order_id)
                return StartAttempt()
            case Routing(terms=terms, attempt=attempt):
                self._reach("K3", order.order_id)
                return await self._route(order.order_id, terms, attempt)
            case Building() as state:
                self._reach("K5", order.order_id)
                return await self._submission.build(order.order_id, state)
            case Submitted() as state:
                draw = self._draw(order.order_id, state.attempt)
                return await self._submission.resolve(order.order_id, state, draw, deadline_us, sent=sent)
            case Quoted() | Exhausted():
                raise UndefinedTransitionError(type(order.state).__name__, "the end of a commit")
            case _:
                assert_never(order.state)

    async def _route(self, order_id: str, terms: Terms, attempt: int) -> RouteAttempt:
        slot = await self._slots.get()
        swap = swap_of(order_id, terms, attempt)
        answers = await collect(self._venues, swap, slot, timeout_ms=self._settings.quote_timeout_ms, clock=self._clock)
        self._reach("K4", order_id)
        selection = select(terms.side, answers)
        quotes = recorded_quotes(answers, swap)
        log.info(
            "order_routed",
            extra={
                "order_id": order_id,
                "attempt": attempt,
                "quotes": {quote.venue: quote.amount or quote.reason or quote.status for quote in quotes},
                "venue": selection and selection.venue,
                "edge_bps": selection and selection.edge_bps,
            },
        )
        return RouteAttempt(slot=slot, quotes=quotes, selection=selection, retry=self._draw(order_id, attempt))

    def _draw(self, order_id: str, attempt: int) -> RetryDraw:
        return RetryDraw(
            now_us=self._clock.now_us(),
            jitter_ppm=draw_below(JITTER_PPM, self._settings.seed, "jitter", order_id, attempt),
            speed_ppm=self._settings.speed_ppm,
        )

"""The order process: what a worker does for one task, step by step, each step an append."""

import logging
from collections.abc import Sequence
from typing import Final, assert_never

from msgspec import Struct
from msgspec.structs import replace

from app.clock import Clock
from app.dex.chain import CONFIRMATION_SLOTS
from app.dex.draws import draw_below
from app.dex.profile import Profile
from app.dex.router import collect, recorded_quotes, select
from app.dex.transaction import instructions
from app.dex.venue import Swap, reference_amount
from app.execution.coalesce import Shared
from app.execution.failpoints import Reach, unwatched
from app.execution.streams import OrderHead, OrderStreams
from app.execution.submission import RESEND_SLOTS, Submission, swap_of
from app.execution.triggers import BEGUN, Triggers, launched_token
from app.execution.venues import GuardedVenue
from app.orders.commands import (
    Command,
    EndSubmission,
    ExpireOrder,
    RejectOrder,
    RestOrder,
    RetryDraw,
    RouteAttempt,
    StartAttempt,
)
from app.orders.decide import decide, is_over
from app.orders.errors import UndefinedTransitionError
from app.orders.events import OrderRested, Quote
from app.orders.money import MAX_UNITS
from app.orders.state import (
    Absent,
    Accepted,
    Building,
    Cancelled,
    CancelPending,
    Confirmed,
    Exhausted,
    Expired,
    Failed,
    Live,
    Quoted,
    Rejected,
    Resting,
    Routing,
    State,
    Submitted,
    Terminal,
    Terms,
    Triggered,
    Unsent,
    Waiting,
)
from app.orders.times import parse_time
from eventstore.ids import partition_in
from eventstore.levels import Level
from eventstore.store import EventStore, Task

log = logging.getLogger(__name__)

JITTER_PPM: Final = 1_000_001
MISSED_SLOTS: Final = 64
"""Most slots looked at before others get their turn."""
EXPIRE: Final = "expire"
"""Kind of the task that an order's own end becomes."""


class ProcessSettings(Struct, frozen=True, kw_only=True):
    """The bounds of one task, and what its draws are made from."""

    seed: str
    profile: Profile
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
        triggers: says what an order waits for, and whether the market meets it.
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
        venues: Sequence[GuardedVenue],
        triggers: Triggers,
        slots: Shared[int],
        submission: Submission,
        clock: Clock,
        settings: ProcessSettings,
        reach: Reach = unwatched,
    ) -> None:
        self._store = store
        self._streams = streams
        self._venues = venues
        self._triggers = triggers
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
        if isinstance(order.state, Live):
            # Recorded by another task, which may have ended before its intent was worth enough to be sent.
            await self._streams.confirm(order, self._settings.intent_level)
        sent = False
        while True:
            command = await self._next_command(order, task, deadline_us, sent)
            if command is None:
                await self._store.finish_task(task)
                return
            sent = isinstance(order.state, Building)
            level = self._settings.intent_level if sent else None
            # An order that comes to rest keeps its task until the slots that it may have missed are looked at.
            held = None if _puts_to_rest(order.state, command) else task
            recorded = await self._streams.record(order, command, held, level=level)
            order = recorded.order
            if isinstance(order.state, Terminal):
                self._reach("K13", order.order_id)
            if sent:
                await self._submission.send_intent(order)
            if recorded.finished:
                return

    async def _next_command(self, order: OrderHead, task: Task, deadline_us: int, sent: bool) -> Command | None:
        expiry = self._expiry(order.state, task)
        if expiry is not None or task.kind == EXPIRE:
            return expiry
        match order.state:
            case Absent() | Confirmed() | Cancelled() | Expired() | Rejected() | Failed():
                return None
            case Resting() as state:
                return await self._missed(order.order_id, state)
            case Accepted(terms=terms):
                self._reach("taken", order.order_id)
                return await self._begin(terms)
            case Triggered() | Waiting():
                return StartAttempt()
            case Routing() as state:
                self._reach("K3", order.order_id)
                return await self._route(order.order_id, state)
            case Building() as state:
                self._reach("K5", order.order_id)
                return await self._submission.build(order.order_id, state)
            case Submitted() as state:
                return await self._resolve(order.order_id, state, deadline_us, RESEND_SLOTS if sent else 0)
            case CancelPending(submitted=state):
                return await self._resolve(order.order_id, state, deadline_us, None)
            case Quoted() | Exhausted():
                raise UndefinedTransitionError(type(order.state).__name__, "the end of a commit")
            case _:
                assert_never(order.state)

    def _expiry(self, state: State, task: Task) -> ExpireOrder | None:
        """Return the command that ends an order whose time has come; a timer that has fired is proof of that."""
        if not isinstance(state, Unsent) or state.terms.expire_at is None:
            return None
        now_us = self._clock.now_us()
        if task.kind == EXPIRE:
            # The server's clock says so; this one may be behind it.
            now_us = max(now_us, parse_time(state.terms.expire_at))
        return ExpireOrder(now_us=now_us) if is_over(state.terms, now_us) else None

    async def _begin(self, terms: Terms) -> Command:
        if terms.rests:
            return await self._triggers.first_look(terms, await self._confirmed_slot())
        if launched_token(terms) is not None:
            launch_slot = await self._triggers.launch_slot(terms)
            if launch_slot is None or await self._confirmed_slot() < launch_slot:
                return RejectOrder(code="not_launched")
        return StartAttempt()

    async def _confirmed_slot(self) -> int:
        return await self._slots.get() - CONFIRMATION_SLOTS

    async def _missed(self, order_id: str, state: Resting) -> Command | None:
        """Look at the slots that a scanner may have begun with while the order was coming to rest.

        Any later one finds the order in its index.
        """
        begun = await self._store.read_mark(partition_in(order_id), BEGUN)
        if begun is None or state.trigger.when == "launched":
            return None
        for start in range(state.slot + 1, begun + 1, MISSED_SLOTS):
            slots = range(start, min(start + MISSED_SLOTS, begun + 1))
            if (evidence := self._triggers.price_met(state.trigger, slots)) is not None:
                return evidence
            await self._clock.sleep(0)
        return None

    async def _resolve(self, order_id: str, state: Submitted, deadline_us: int, send_after: int | None) -> Command:
        draw = self._draw(order_id, state.attempt)
        command = await self._submission.resolve(order_id, state, draw, deadline_us, send_after=send_after)
        if isinstance(command, EndSubmission):
            # The proof took its time: the order's own end and the back-off count from now.
            return replace(command, retry=self._draw(order_id, state.attempt))
        return command

    async def _route(self, order_id: str, state: Routing) -> RouteAttempt:
        terms, attempt = state.terms, state.attempt
        slot = await self._slots.get()
        launch_slot = await self._triggers.launch_slot(terms)
        swap = swap_of(order_id, terms, attempt, launch_slot)
        answers = await collect(self._venues, swap, slot, timeout_ms=self._settings.quote_timeout_ms, clock=self._clock)
        self._reach("K4", order_id)
        selection = select(terms.side, answers)
        quotes = self._with_circuits(recorded_quotes(answers, swap), swap)
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
        return RouteAttempt(
            slot=slot,
            quotes=quotes,
            selection=selection,
            retry=self._draw(order_id, attempt),
            reference=self._reference(swap, slot),
            launch_slot=launch_slot,
            rearmed=self._triggers.rearmed(state, slot, selection, launch_slot),
            steps=instructions(swap),
        )

    def _with_circuits(self, quotes: Sequence[Quote], swap: Swap) -> tuple[Quote, ...]:
        trials = {venue.name for venue in self._venues if venue.is_trial(swap)}
        return tuple(
            replace(quote, circuit="open")
            if quote.code == "circuit_open"
            else replace(quote, circuit="half_open")
            if quote.venue in trials
            else quote
            for quote in quotes
        )

    def _reference(self, swap: Swap, slot: int) -> int | None:
        amount = reference_amount(swap, slot, seed=self._settings.seed, profile=self._settings.profile)
        return amount if amount is not None and amount <= MAX_UNITS else None

    def _draw(self, order_id: str, attempt: int) -> RetryDraw:
        return RetryDraw(
            now_us=self._clock.now_us(),
            jitter_ppm=draw_below(JITTER_PPM, self._settings.seed, "jitter", order_id, attempt),
            speed_ppm=self._settings.speed_ppm,
        )


def _puts_to_rest(state: State, command: Command) -> bool:
    return isinstance(command, RestOrder | RouteAttempt) and any(
        isinstance(event, OrderRested) for event in decide(state, command)
    )

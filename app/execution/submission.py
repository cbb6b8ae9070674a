"""The submission of a swap: sign, record, send, resolve. The only place where money moves.

The order of steps is the protocol: the intent is durable before any byte is sent; the chain's height is read before
the status; the same bytes are sent again until the chain proves that they landed or never will; nothing is signed anew
before that proof; no time-out is ever a verdict.
"""

import base64
import logging
from collections.abc import Sequence
from typing import Final, Protocol

from app.clock import Clock
from app.dex.chain import Blockhash, Landed, LandedFailed, Observation
from app.dex.errors import ChainError
from app.dex.tokens import SOL, Token, token
from app.dex.transaction import SwapMessage, Wallet, encode, from_base58, tx_id
from app.dex.venue import Swap
from app.execution.coalesce import Observer, Seen, Shared
from app.execution.failpoints import Reach
from app.execution.streams import OrderHead
from app.orders.commands import (
    Command,
    ConfirmOrder,
    EndSubmission,
    PostponeResolve,
    RecordIntent,
    RetryDraw,
)
from app.orders.events import Fees, Proof, Receipt
from app.orders.money import format_units
from app.orders.state import Building, Submitted, Terms

log = logging.getLogger(__name__)

RESEND_SLOTS: Final = 6
"""Slots between two broadcasts of the same bytes: longer than a swap usually takes to be confirmed."""


def swap_of(order_id: str, terms: Terms, attempt: int, launch_slot: int | None = None) -> Swap:
    """Return what an attempt of an order wants exchanged; ``launch_slot`` is that of a launched token's pool."""
    return Swap(
        order_id=order_id,
        attempt=attempt,
        side=terms.side,
        base=token(terms.base_asset),
        quote=token(terms.quote_asset),
        amount=terms.amount,
        launch_slot=launch_slot,
    )


class Chain(Protocol):
    """What execution needs of a chain; :class:`app.dex.chain.SimulatedChain` says what each method does."""

    async def slot(self) -> int: ...

    async def latest_blockhash(self) -> Blockhash: ...

    async def send(self, message: bytes, signature: bytes) -> None: ...

    async def observe(self, signatures: Sequence[str]) -> Observation: ...

    async def launch_slots(self, tokens: Sequence[Token]) -> dict[str, int]: ...


class Submission:
    """Signs, sends and resolves the swaps of one process.

    Args:
        chain: where bytes are sent.
        blockhashes: the latest blockhash with its last valid height.
        observer: looks at signatures, height first.
        wallet: signs.
        clock: tells when the task must end.
        speed_ppm: simulation speed, by which a postponed look is scaled.
        reach: watches the crash points.
    """

    def __init__(  # noqa: PLR0913 - the composition root hands every collaborator in by name
        self,
        *,
        chain: Chain,
        blockhashes: Shared[Blockhash],
        observer: Observer,
        wallet: Wallet,
        clock: Clock,
        speed_ppm: int,
        reach: Reach,
    ) -> None:
        self._chain = chain
        self._blockhashes = blockhashes
        self._observer = observer
        self._wallet = wallet
        self._clock = clock
        self._speed_ppm = speed_ppm
        self._reach = reach

    async def build(self, order_id: str, state: Building) -> RecordIntent:
        """Return the signed swap of this attempt, to be recorded before it is sent."""
        blockhash = await self._blockhashes.get()
        swap = swap_of(order_id, state.terms, state.attempt, state.launch_slot)
        message = encode(
            SwapMessage(
                payer=self._wallet.address,
                blockhash=blockhash.hash,
                venue=state.venue,
                swap=swap,
                limit=state.limit,
            )
        )
        signature = self._wallet.sign(message)
        self._reach("K6", order_id)
        return RecordIntent(
            tx_id=tx_id(signature),
            message=base64.b64encode(message).decode(),
            last_valid_height=blockhash.last_valid_height,
        )

    async def send_intent(self, order: OrderHead) -> None:
        """Send the swap whose intent was just recorded."""
        self._reach("K8", order.order_id)
        if isinstance(order.state, Submitted):
            await self._send(order.order_id, order.state)
        self._reach("K10", order.order_id)

    async def resolve(
        self, order_id: str, state: Submitted, draw: RetryDraw, deadline_us: int, *, send_after: int | None
    ) -> Command:
        """Look at the chain until it shows the outcome, or until ``deadline_us``: then the look is postponed.

        The bytes are sent again ``send_after`` slots after the first look, and every :data:`RESEND_SLOTS` from then on,
        while they are not seen; None: never, as for an order that is to be cancelled if they do not land.
        """
        resend_at: int | None = None
        while self._clock.now_us() < deadline_us:
            seen = await self._observer.look(state.tx_id)
            outcome = _outcome(state, seen, draw)
            if outcome is not None:
                self._reach("K12", order_id)
                if seen.status is None:
                    self._reach("K16", order_id)
                return outcome
            if send_after is None:
                continue
            if resend_at is None:
                resend_at = seen.slot + send_after
            if seen.slot >= resend_at:
                await self._send(order_id, state)
                resend_at = seen.slot + RESEND_SLOTS
        return PostponeResolve(now_us=self._clock.now_us(), speed_ppm=self._speed_ppm)

    async def _send(self, order_id: str, state: Submitted) -> None:
        try:
            await self._chain.send(base64.b64decode(state.message), from_base58(state.tx_id))
        except ChainError as error:
            log.info("send_refused", extra={"order_id": order_id, "tx_id": state.tx_id, "reason": str(error)})


def _outcome(state: Submitted, seen: Seen, draw: RetryDraw) -> Command | None:
    match seen.status:
        case Landed() as landed:
            return ConfirmOrder(tx_id=state.tx_id, receipt=_receipt(state.terms, state.venue, landed))
        case LandedFailed(slot=slot, error=error):
            proof = Proof(kind="failed_on_chain", tx_id=state.tx_id, slot=slot, error=error)
            return EndSubmission(proof=proof, retry=draw)
        case None if seen.height > state.last_valid_height:
            proof = Proof(
                kind="expired",
                tx_id=state.tx_id,
                slot=seen.slot,
                height=seen.height,
                last_valid_height=state.last_valid_height,
            )
            return EndSubmission(proof=proof, retry=draw)
        case None:
            return None


def _receipt(terms: Terms, venue: str, landed: Landed) -> Receipt:
    sell = terms.side == "sell"
    decimals_in, decimals_out = (
        (terms.base_decimals, terms.quote_decimals) if sell else (terms.quote_decimals, terms.base_decimals)
    )
    return Receipt(
        venue=venue,
        amount_in=format_units(landed.amount_in, decimals_in),
        amount_out=format_units(landed.amount_out, decimals_out),
        fee=format_units(landed.fee, decimals_in),
        network_fee=format_units(landed.network_fee, SOL.decimals),
        slot=landed.slot,
        fees=Fees(
            lp=_some(landed.fees.lp, decimals_in),
            protocol=_some(landed.fees.protocol, decimals_in),
            fund=_some(landed.fees.fund, decimals_in),
        ),
    )


def _some(units: int, decimals: int) -> str | None:
    return format_units(units, decimals) if units else None

"""Quotes over REST: what each venue would give for a trade now, which one an order would take, and why."""

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.api.orders.request import read_trade
from app.api.orders.slippage import read_slippage_bps
from app.api.orders.terms import read_terms
from app.api.problems import unavailable
from app.api.requests import INTEGER, Form, Number, read_query
from app.clock import Clock
from app.dex.errors import ChainError
from app.dex.router import POLICY
from app.dex.tokens import Token
from app.execution.quoting import Quoted, Quoting
from app.orders.events import Chosen, Failure, PriceProtectionTripped, Quote, Side
from app.orders.money import format_units
from app.orders.state import Terms
from app.orders.times import format_time

QUOTES_PATH: Final = "/api/quotes"
QUOTE_PARAMETERS: Final = (
    *("tokenIn", "tokenOut", "amountIn", "side", "baseAsset", "quoteAsset", "amount"),
    *("slippageBps", "maxFeeBps", "maxImpactBps", "minVenues"),
)


class QuoteView(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """What a market order would meet; amounts are decimal text in the unit of their asset, ``amount`` in the base."""

    simulated: bool
    """The venues are: no quote is an offer of a real exchange."""
    at: str
    slot: int
    side: Side
    base_asset: str
    quote_asset: str
    amount: str
    token_in: str
    token_out: str
    quotes: tuple[Quote, ...]
    """Every venue's answer; amounts in the quote asset: received for a sell, paid for a buy, net of pool fees."""
    policy: str
    chosen: Chosen | None
    """The venue that an order would take; null where it would take none."""
    why: str
    runner_up: str | None = None
    edge_bps: int | None = None
    """How much better the best amount is than the second, in 1/100 % of the best."""
    decision: str | None = None
    min_out: str | None = None
    """What a sell would pay out at least, or fail."""
    max_in: str | None = None
    """What a buy would cost at most, or fail."""
    protection: PriceProtectionTripped | None = None
    """The guard that would keep an order from the best quote."""
    error: Failure | None = None


class QuoteRoutes:
    """``/api/quotes``."""

    def __init__(self, quoting: Quoting | None, clock: Clock) -> None:
        self._quoting = quoting
        self._clock = clock

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [Route(QUOTES_PATH, self.quote, methods=["GET"])]

    async def quote(self, request: Request) -> Response:
        """Ask the venues; nothing is appended."""
        terms, base, quote = _read_terms(read_query(request, QUOTE_PARAMETERS), self._clock.now_us())
        if self._quoting is None:
            raise unavailable("this process asks no venues for quotes; orders can still be sent")
        try:
            quoted = await self._quoting.quote(terms, base, quote)
        except ChainError as error:
            raise unavailable("without the chain there are no quotes; orders can still be sent") from error
        view = _view(terms, quoted, format_time(self._clock.now_us()))
        return Response(msgspec.json.encode(view), 200, {"Cache-Control": "no-store"}, "application/json")


def _read_terms(query: Mapping[str, str], now_us: int) -> tuple[Terms, Token, Token]:
    """Return the market order that is asked about, read as an order is.

    Raises:
        ProblemError: ``invalid_query``.
    """
    members = {name: Number(value) if INTEGER.fullmatch(value) else value for name, value in query.items()}
    form = Form(members)
    trade, foreign = read_trade(form, members)
    own = read_terms(form, trade, now_us)
    slippage_bps = read_slippage_bps(form)
    form.refuse_unknown(QUOTE_PARAMETERS, foreign)
    form.finish("invalid_query")
    side, base, quote, amount = trade.side, trade.base, trade.quote, trade.amount
    assert own is not None and side is not None and base is not None and quote is not None and amount is not None
    terms = Terms(
        side=side,
        base_asset=base.symbol,
        quote_asset=quote.symbol,
        base_decimals=base.decimals,
        quote_decimals=quote.decimals,
        amount=amount,
        slippage_bps=slippage_bps,
        max_fee_bps=own.max_fee_bps,
        max_impact_bps=own.max_impact_bps,
        min_venues=own.min_venues,
    )
    return terms, base, quote


def _view(terms: Terms, quoted: Quoted, at: str) -> QuoteView:
    sell, selection, route = terms.side == "sell", quoted.selection, quoted.route
    return QuoteView(
        simulated=True,
        at=at,
        slot=quoted.slot,
        side=terms.side,
        base_asset=terms.base_asset,
        quote_asset=terms.quote_asset,
        amount=format_units(terms.amount, terms.base_decimals),
        token_in=terms.base_asset if sell else terms.quote_asset,
        token_out=terms.quote_asset if sell else terms.base_asset,
        quotes=quoted.quotes,
        policy=POLICY,
        chosen=None if route is None else route.chosen,
        why=_why(terms, quoted),
        runner_up=None if selection is None else selection.runner_up,
        edge_bps=None if selection is None else selection.edge_bps,
        decision=None if selection is None else selection.decision,
        min_out=None if route is None else route.min_out,
        max_in=None if route is None else route.max_in,
        protection=quoted.tripped,
        error=quoted.failure,
    )


def _why(terms: Terms, quoted: Quoted) -> str:
    """Say in words what the policy and the guards made of the quotes."""
    selection, verb = quoted.selection, "pays" if terms.side == "sell" else "asks"
    if selection is None:
        return "" if quoted.failure is None else quoted.failure.message
    amounts = {quote.venue: quote.amount for quote in quoted.quotes if quote.status == "ok"}
    best = f"{selection.venue} {verb} {amounts[selection.venue]} {terms.quote_asset}"
    if selection.runner_up is None:
        said = f"{best}, and no other venue gave a usable price"
    else:
        word = "more" if terms.side == "sell" else "less"
        second = f"{selection.runner_up} {amounts[selection.runner_up]}"
        said = f"{best}, {second}: {selection.edge_bps} bps {word}" if selection.edge_bps else f"{best}, {second}"
    if quoted.tripped is not None and quoted.failure is not None:
        return f"{said}; but an order would not take it: {quoted.failure.message}"
    return said

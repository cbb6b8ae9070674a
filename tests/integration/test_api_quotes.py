"""Quotes and tokens: both venues' answers, the choice and its reason by the code that executes orders."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from app.api.market.tokens import NAMES
from app.clock import Clock, SystemClock
from app.dex.chain import SimulatedChain
from app.dex.errors import ChainUnavailableError, VenueTimeoutError, VenueUnavailableError
from app.dex.profile import Profile
from app.dex.router import choose
from app.dex.tokens import PAIRS, SOL, TOKENS, USDC, Token
from app.dex.venue import Swap, Venue, VenueQuote, price_swap, simulated_venues
from app.execution.quoting import Market, QuoteSettings, Quoting
from app.main import build_quoting, open_chain
from app.orders.money import format_units
from app.orders.state import Terms
from app.settings import Settings
from tests.clocks import VirtualClock
from tests.integration.api import Api, memory_store, on_memory, problem, running

SEED = "quotes"
CALM = Profile(venue_error_ppm=0, venue_timeout_ppm=0)
SELL = {"tokenIn": "SOL", "tokenOut": "USDC", "amount": "10"}


class Still:
    """A chain that stands at one slot; every launched token has opened long ago."""

    def __init__(self, slot: int = 5_000) -> None:
        self.at = slot

    async def slot(self) -> int:
        return self.at

    async def launch_slots(self, tokens: Sequence[Token]) -> dict[str, int]:
        return {token.symbol: 10 for token in tokens}


class Broken:
    """A venue that answers in one way only."""

    def __init__(self, name: str, error: Exception) -> None:
        self.name = name
        self._error = error

    async def quote(self, swap: Swap, slot: int) -> VenueQuote:
        raise self._error


def quoting(venues: tuple[Venue, ...] | None = None, profile: Profile = CALM, chain: Market | None = None) -> Quoting:
    clock: Clock = SystemClock()
    venues = venues or simulated_venues(seed=SEED, profile=profile, clock=clock, speed_ppm=0)
    return Quoting(venues, chain or Still(), clock, QuoteSettings(seed=SEED, profile=profile, timeout_ms=1_000))


def on_quotes(scenario: Callable[[Api], Awaitable[None]], source: Quoting | None = None) -> None:
    async def main() -> None:
        async with running(memory_store(), quoting=source or quoting()) as api:
            await scenario(api)

    asyncio.run(main())


async def ask(api: Api, **query: str) -> dict[str, Any]:
    response = await api.http.get("/api/quotes", params=query)
    assert (response.status_code, response.headers["cache-control"]) == (200, "no-store"), response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_a_sell_is_quoted_by_both_venues_and_the_larger_amount_wins() -> None:
    async def scenario(api: Api) -> None:
        answer = await ask(api, **SELL)
        assert answer["simulated"] is True
        swap = Swap(
            order_id="quote sell 10000000000 SOL USDC", attempt=5_000, side="sell", base=SOL, quote=USDC, amount=10**10
        )
        amounts = {
            name: price_swap(name, swap, 5_000, seed=SEED, profile=CALM).amount for name in ("raydium", "meteora")
        }
        chosen = choose("sell", amounts)
        assert chosen is not None and chosen.edge_bps is not None and chosen.runner_up is not None
        texts = {name: format_units(amount, 6) for name, amount in amounts.items()}
        assert {quote["venue"]: quote["amount"] for quote in answer["quotes"]} == texts
        assert amounts[chosen.venue] == max(amounts.values())
        assert answer["chosen"] == {"venue": chosen.venue, "amount": texts[chosen.venue]}
        assert (answer["runnerUp"], answer["edgeBps"]) == (chosen.runner_up, chosen.edge_bps)
        assert (answer["decision"], answer["policy"]) == (chosen.decision, "best-net/1")
        best, second = texts[chosen.venue], texts[chosen.runner_up]
        why = f"{chosen.venue} pays {best} USDC, {chosen.runner_up} {second}: {chosen.edge_bps} bps more"
        assert answer["why"] == why
        assert {name: answer[name] for name in ("side", "amount", "tokenIn", "tokenOut", "slot")} == {
            **{"side": "sell", "amount": "10", "tokenIn": "SOL", "tokenOut": "USDC", "slot": 5_000}
        }
        least = -(-max(amounts.values()) * 9_950 // 10_000)
        assert answer["minOut"] == format_units(least, 6)
        assert not {"maxIn", "error", "protection"} & set(answer)
        assert sum(status.position for status in await api.store.status()) == 0

    on_quotes(scenario)


def test_a_buy_takes_the_venue_that_asks_less() -> None:
    async def scenario(api: Api) -> None:
        trade = {"side": "buy", "baseAsset": "SOL", "quoteAsset": "USDC", "amount": "2.5", "slippageBps": "100"}
        answer = await ask(api, **trade)
        amounts = {quote["venue"]: float(quote["amount"]) for quote in answer["quotes"]}
        assert answer["chosen"]["venue"] == min(amounts, key=lambda venue: amounts[venue])
        assert (answer["tokenIn"], answer["tokenOut"]) == ("USDC", "SOL")
        assert " asks " in answer["why"] and answer["why"].endswith(f"{answer['edgeBps']} bps less")
        assert float(answer["maxIn"]) == pytest.approx(amounts[answer["chosen"]["venue"]] * 1.01, abs=1e-6)
        assert "minOut" not in answer

    on_quotes(scenario)


@pytest.mark.parametrize(
    ("error", "quote"),
    [
        (VenueUnavailableError("down"), {"status": "error", "reason": "down", "code": "unavailable"}),
        (VenueTimeoutError("late"), {"status": "timeout"}),
    ],
)
def test_a_venue_that_gives_no_price_is_shown_and_the_other_one_chosen(error: Exception, quote: dict[str, str]) -> None:
    venues = simulated_venues(seed=SEED, profile=CALM, clock=SystemClock(), speed_ppm=0)

    async def scenario(api: Api) -> None:
        answer = await ask(api, **SELL)
        broken, other = answer["quotes"]
        assert {name: broken[name] for name in quote} == quote
        assert answer["chosen"]["venue"] == other["venue"] == "meteora"
        assert answer["why"] == f"meteora pays {other['amount']} USDC, and no other venue gave a usable price"
        assert "edgeBps" not in answer
        both = await ask(api, **SELL, minVenues="2")
        assert (both["chosen"], both["protection"]["guard"]) == (None, "venues")
        assert both["error"]["code"] == "too_few_venues"
        assert both["why"].endswith(f"but an order would not take it: {both['error']['message']}")

    on_quotes(scenario, quoting((Broken("raydium", error), venues[1])))


class Generous:
    """A venue that pays twice what the market does."""

    name = "meteora"

    async def quote(self, swap: Swap, slot: int) -> VenueQuote:
        quote = price_swap(self.name, swap, slot, seed=SEED, profile=CALM)
        return replace(quote, amount=2 * quote.amount)


def test_a_price_too_far_from_the_reference_price_is_not_taken() -> None:
    async def scenario(api: Api) -> None:
        answer = await ask(api, **SELL)
        assert (answer["chosen"], answer["protection"]["guard"]) == (None, "collar")

    on_quotes(scenario, quoting((Broken("raydium", VenueUnavailableError("down")), Generous())))


def test_without_any_price_the_reason_is_that_of_an_order() -> None:
    async def scenario(api: Api) -> None:
        answer = await ask(api, **SELL)
        assert (answer["chosen"], answer["error"]["code"]) == (None, "no_quote")
        assert answer["why"] == answer["error"]["message"]

    broken = tuple(Broken(name, VenueUnavailableError("down")) for name in ("raydium", "meteora"))
    on_quotes(scenario, quoting(broken))


def test_a_trade_that_the_guards_would_stop_is_said_to_be_stopped() -> None:
    async def scenario(api: Api) -> None:
        answer = await ask(api, tokenIn="SOL", tokenOut="USDC", amount="2000000")
        assert (answer["chosen"], answer["protection"]["guard"]) == (None, "impact")
        assert answer["error"]["code"] == "impact_exceeded"

    on_quotes(scenario)


def test_a_launched_token_is_quoted_as_its_pool_stands() -> None:
    async def scenario(api: Api) -> None:
        answer = await ask(api, tokenIn="SOL", tokenOut="NEW7", amount="0.5")
        assert answer["chosen"]["venue"] in ("raydium", "meteora")
        capped = await ask(api, tokenIn="SOL", tokenOut="NEW7", amount="0.5", maxFeeBps="0")
        assert capped["protection"]["guard"] == "fee"

    on_quotes(scenario)


BAD = [
    ("tokenIn=SOL&tokenOut=USDC", "amount"),
    ("tokenIn=SOL&amount=1", "tokenOut"),
    ("tokenIn=SOL&tokenOut=SOL&amount=1", "tokenOut"),
    ("tokenIn=SOL&tokenOut=USDC&amount=0", "amount"),
    ("tokenIn=SOL&tokenOut=USDC&amount=1e3", "amount"),
    ("side=up&baseAsset=SOL&quoteAsset=USDC&amount=1", "side"),
    ("side=buy&baseAsset=SOL&quoteAsset=USDC&amount=1&tokenIn=SOL", "tokenIn"),
    ("tokenIn=XYZ&tokenOut=USDC&amount=1", "tokenIn"),
    ("tokenIn=SOL&tokenOut=USDC&amount=1&slippageBps=10001", "slippageBps"),
    ("tokenIn=SOL&tokenOut=USDC&amount=1&minVenues=3", "minVenues"),
    ("tokenIn=SOL&tokenOut=USDC&amount=1&orderType=limit", "orderType"),
]


def test_a_question_that_no_order_could_be_is_refused_by_parameter() -> None:
    async def scenario(api: Api) -> None:
        for query, name in BAD:
            body: dict[str, Any] = problem(await api.http.get(f"/api/quotes?{query}"), 400, "invalid_query")
            assert name in {error["pointer"].removeprefix("/") for error in body["errors"]}, query

    on_quotes(scenario)


class Gone(Still):
    """A chain that gives no answer."""

    async def slot(self) -> int:
        raise ChainUnavailableError("no answer")


def test_without_a_chain_or_without_venues_there_are_no_quotes() -> None:
    async def scenario(api: Api) -> None:
        problem(await api.http.get("/api/quotes", params=SELL), 503, "unavailable")

    on_quotes(scenario, quoting(chain=Gone()))
    on_memory(scenario)


def test_a_silent_venue_is_waited_for_as_long_as_an_order_would() -> None:
    silent = replace(CALM, venue_timeout_ppm=1_000_000)
    clock = VirtualClock()

    async def main() -> None:
        venues = simulated_venues(seed=SEED, profile=silent, clock=clock, speed_ppm=1_000_000)
        source = Quoting(venues, Still(), clock, QuoteSettings(seed=SEED, profile=silent, timeout_ms=700))
        terms = Terms(
            side="sell",
            base_asset="SOL",
            quote_asset="USDC",
            base_decimals=9,
            quote_decimals=6,
            amount=10**9,
            slippage_bps=50,
        )
        asked = asyncio.create_task(source.quote(terms, SOL, USDC))
        await clock.run_until(asked)
        quoted = asked.result()
        assert [(quote.status, quote.latency_ms) for quote in quoted.quotes] == [("timeout", 700)] * 2
        assert quoted.failure is not None and quoted.failure.code == "no_quote"

    asyncio.run(main())


def test_the_process_quotes_by_the_real_chains_slot(redis_url: str) -> None:
    async def main() -> None:
        settings = Settings(namespace=f"q{uuid.uuid4().hex[:10]}", speed_ppm=0)
        chain, connection = open_chain(settings, redis_url)
        try:
            assert isinstance(chain, SimulatedChain)
            async with running(memory_store(), quoting=build_quoting(settings, chain, SystemClock())) as api:
                first, second = await ask(api, **SELL), await ask(api, **SELL)
                assert first["slot"] == await chain.slot()
                # Where no time passes, asking does not let it.
                assert {**first, "at": "", "quotes": 0} == {**second, "at": "", "quotes": 0}
        finally:
            await connection.close()

    asyncio.run(main())


def test_tokens_and_pools_are_listed_once_and_then_known() -> None:
    async def scenario(api: Api) -> None:
        response = await api.http.get("/api/tokens")
        answer = response.json()
        assert [(token["symbol"], token["mint"], token["decimals"]) for token in answer["tokens"]] == [
            (token.symbol, token.mint, token.decimals) for token in TOKENS
        ]
        assert {token["symbol"]: token["name"] for token in answer["tokens"]} == NAMES
        assert [pair["pair"] for pair in answer["pairs"]] == [pair.name for pair in PAIRS]
        assert {tuple(pair["venues"]) for pair in answer["pairs"]} == {("raydium", "meteora")}
        assert (answer["launched"]["first"], answer["launched"]["last"]) == ("NEW1", "NEW60000")
        assert response.headers["cache-control"] == "public, max-age=3600"
        known = await api.http.get("/api/tokens", headers={"If-None-Match": response.headers["etag"]})
        assert (known.status_code, known.content) == (304, b"")
        problem(await api.http.get("/api/tokens?limit=1"), 400, "invalid_query")

    on_memory(scenario)

"""Orders as clients of other engines spell them: taken where their meaning is certain, else refused with the reason."""

import json
from typing import Any

import pytest

from tests.integration.api import Api, connected, hear, on_memory, problem

Json = dict[str, Any]
SOLD: Json = {"side": "sell", "baseAsset": "SOL", "quoteAsset": "USDC", "amount": "1.5", "orderType": "market"}
BOUGHT: Json = {**SOLD, "side": "buy"}
LIMITED: Json = {**BOUGHT, "orderType": "limit", "limitPrice": "140.5"}
USDC = "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v"
SWAP: Json = {"tokenIn": "SOL", "tokenOut": "USDC", "amount": 1.5}
BUY: Json = {"side": "buy", "baseAsset": "SOL", "quoteAsset": "USDC", "amount": 1.5}
LIMIT: Json = {**BUY, "orderType": "limit"}

UNDERSTOOD: list[tuple[Json, Json]] = [
    (SWAP, SOLD),
    ({"tokenIn": "SOL", "tokenOut": "USDC", "amountIn": "1.5"}, SOLD),
    ({"tokenMintIn": "SOL", "tokenMintOut": USDC, "amountIn": 1.5, "type": "market"}, SOLD),
    ({"inputMint": "SOL", "outputMint": USDC, "amount": 1.5}, SOLD),
    ({"fromToken": "SOL", "toToken": "USDC", "amount": 1.5}, SOLD),
    ({"token_in": "SOL", "token_out": "USDC", "amount": 1.5, "order_type": "market"}, SOLD),
    ({"token_in": "SOL", "token_out": "USDC", "amount_in": 1.5}, SOLD),
    ({"baseToken": "SOL", "quoteToken": "USDC", "amount": 1.5, "side": "SELL"}, SOLD),
    (BUY, BOUGHT),
    ({**BUY, "side": "BUY", "type": "MARKET"}, BOUGHT),
    ({**LIMIT, "limitPrice": 140.5}, LIMITED),
    ({**LIMIT, "maxPrice": "140.5"}, LIMITED),
    ({**LIMIT, "targetPrice": 140.5}, LIMITED),
    ({**LIMIT, "price": 140.50}, LIMITED),
    ({**LIMIT, "limit_price": "140.5"}, LIMITED),
    ({**SWAP, "slippageBps": 75}, {**SOLD, "slippageBps": 75}),
    ({**SWAP, "slippageTolerance": "0.75%"}, {**SOLD, "slippageBps": 75}),
    ({**SWAP, "slippagePercent": 0.75}, {**SOLD, "slippageBps": 75}),
    ({**SWAP, "userId": "u"}, {**SOLD, "clientId": "u"}),
    ({**SWAP, "userWallet": "w"}, {**SOLD, "clientId": "w"}),
    ({**SWAP, "clientId": "c"}, {**SOLD, "clientId": "c"}),
]

AMBIGUOUS = (
    "is refused because clients mean fractions or percents by it: use slippageBps, 1/100 of a percent, "
    'or write the unit, as in "0.5%" or "50 bps"'
)
ONE_TOKEN = "is refused because it does not say what is paid for what: give side, baseAsset and quoteAsset"
REFUSED: list[tuple[Json, str, str]] = [
    ({**SWAP, "slippage": 0.01}, "/slippage", AMBIGUOUS),
    ({**SWAP, "slippage": 0.5}, "/slippage", AMBIGUOUS),
    ({**SWAP, "slippageTolerance": 1}, "/slippageTolerance", AMBIGUOUS),
    ({**SWAP, "max_slippage": 0.01}, "/max_slippage", AMBIGUOUS),
    ({**BUY, "symbol": "SOL"}, "/symbol", ONE_TOKEN),
    ({**BUY, "token": "SOL"}, "/token", ONE_TOKEN),
    ({**BUY, "tokenAddress": USDC}, "/tokenAddress", ONE_TOKEN),
    ({**BUY, "pair": "SOL/USDC"}, "/pair", ONE_TOKEN),
    ({**SWAP, "fromToken": "SOL"}, "/fromToken", "must not be given beside tokenIn: both mean the same"),
    (
        {**SWAP, "orderType": "limit", "maxPrice": 1},
        "/maxPrice",
        "is for buys: give the least price of a sell as limitPrice",
    ),
]


@pytest.mark.parametrize("path", ["/api/orders", "/api/orders/execute"])
def test_every_spelling_with_a_certain_meaning_places_the_order_that_it_means(path: str) -> None:
    async def scenario(api: Api) -> None:
        for spelled, meant in UNDERSTOOD:
            response = await api.http.post(path, json=spelled)
            assert response.status_code == 202, (spelled, response.text)
            order = (await api.http.get(response.headers["location"])).json()
            expected: Json = {"slippageBps": 50, **meant}
            assert {name: order.get(name) for name in (*expected, "clientId", "limitPrice")} == {
                "clientId": None,
                "limitPrice": None,
                **expected,
            }, spelled

    on_memory(scenario)


def test_a_socket_understands_the_same_spellings() -> None:
    async def scenario(api: Api) -> None:
        async with connected(api) as socket:
            for spelled, meant in UNDERSTOOD:
                await socket.send(json.dumps(spelled))
                pending = await hear(socket)
                expected: Json = {"slippageBps": 50, **{k: v for k, v in meant.items() if k != "clientId"}}
                assert {name: pending.get(name) for name in expected} == expected, spelled

    on_memory(scenario)


def test_what_may_mean_several_things_is_refused_with_what_to_write_instead() -> None:
    async def scenario(api: Api) -> None:
        for spelled, pointer, message in REFUSED:
            body = problem(await api.http.post("/api/orders/execute", json=spelled), 400, "invalid_order")
            assert {"pointer": pointer, "message": message} in body["errors"], spelled  # type: ignore[operator]
        assert sum(status.position for status in await api.store.status()) == 0

    on_memory(scenario)

"""JSON as it arrives on a real socket: amounts keep their digits, and what is not acceptable creates nothing."""

import asyncio

import pytest

from tests.integration.api import redis_store, running

JSON = {"Content-Type": "application/json"}


def body(amount: str, more: str = "") -> bytes:
    return f'{{"side":"sell","baseAsset":"SOL","quoteAsset":"USDC","amount":{amount}{more}}}'.encode(
        "utf-8", "surrogatepass"
    )


@pytest.mark.parametrize(
    ("amount", "exact"),
    [("10", "10"), ("0.1", "0.1"), ('"1.500"', "1.5"), ("18446744073.709551615", "18446744073.709551615")],
)
def test_json_parsing_keeps_every_digit_of_an_amount(
    redis_url: str, database_url: str, amount: str, exact: str
) -> None:
    async def main() -> None:
        async with redis_store(redis_url) as store, running(store, database_url) as api:
            answer = await api.http.post("/api/orders", content=body(amount), headers=JSON)
            assert answer.status_code == 202
            shown = await api.http.get(f"/api/orders/{answer.json()['orderId']}")
            assert shown.json()["amount"] == exact

    asyncio.run(main())


def test_json_parsing_refuses_what_is_not_acceptable_and_creates_nothing(redis_url: str, database_url: str) -> None:
    refused = {
        b'{"side":': "json_malformed",
        b"[]": "json_malformed",
        b"\xff": "json_malformed",
        body("NaN"): "json_malformed",
        body("1e3"): "invalid_order",
        body("-1"): "invalid_order",
        body("true"): "invalid_order",
        body("1", ',"clientId":"a\\u0000"'): "json_malformed",
        body("1", ',"clientId":"\\ud800"'): "json_malformed",
        body("1", ',"amount":2'): "json_malformed",
        body("1", ',"x":' + "[" * 40 + "]" * 40): "json_too_deep",
    }

    async def main() -> None:
        async with redis_store(redis_url) as store, running(store, database_url) as api:
            for content, code in refused.items():
                answer = await api.http.post("/api/orders", content=content, headers=JSON)
                assert (answer.status_code, answer.json()["code"]) == (400, code), content
            assert sum(end.position for end in (await store.log_ends()).values()) == 0

    asyncio.run(main())

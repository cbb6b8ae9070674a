"""Clients of other engines, each as its family is written, in front of a real server and a real worker."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from decimal import Context, Decimal
from typing import Any

import pytest
from msgspec import Struct
from msgspec.structs import replace
from websockets.asyncio.client import ClientConnection

from app.dex.profile import Profile
from tests.integration.api import WAIT_SECONDS, Api, connected, ready, running
from tests.integration.test_guards_end_to_end import CALM
from tests.integration.trading import Trading, on_trading

Json = dict[str, Any]
SELL: Json = {"tokenIn": "SOL", "tokenOut": "USDC", "amount": 1.5, "orderType": "market", "clientId": "user01"}
BUY: Json = {"side": "buy", "baseAsset": "SOL", "quoteAsset": "USDC", "amount": 2, "clientId": "user01"}
STATUSES = ["pending", "routing", "routing", "building", "submitted", "confirmed"]
MESSAGES = [
    "order received and queued",
    "comparing the venues' prices",
    "the venues have answered",
    "creating the transaction",
    "transaction sent to the network",
    "transaction successful",
]
NO_QUOTES = replace(CALM, venue_error_ppm=1_000_000)
NO_QUOTE = "no venue gave a usable quote; see the quotes of each attempt"


def on_engine(redis_url: str, scenario: Callable[[Api], Awaitable[None]], profile: Profile = CALM) -> None:
    """Run a scenario in front of a server and a worker, at speed 0."""

    async def main(trading: Trading) -> None:
        async with running(trading.store) as api, trading.at_work():
            await ready(api)
            await scenario(api)

    on_trading(redis_url, main, profile)


class Truth(Struct):
    """What REST says of an order that was executed."""

    id: str
    tx: str
    venue: str
    price: Decimal
    """Quote asset per base asset."""
    times: list[str]
    quotes: list[Json]


async def truth(api: Api, order_id: str) -> Truth:
    order = (await api.http.get(f"/api/orders/{order_id}")).json()
    events = (await api.http.get(f"/api/orders/{order_id}/events")).json()["events"]
    paid, received = Decimal(order["amountIn"]), Decimal(order["amountOut"])
    quote, base = (received, paid) if order["side"] == "sell" else (paid, received)
    price = Context(prec=18).divide(quote, base)
    times = [event["at"] for event in events]
    return Truth(order_id, order["txId"], order["venue"], price, times, events[2]["quotes"])


async def read(socket: ClientConnection, until: Callable[[Json], bool]) -> list[Json]:
    """What every such client does: parse each message, until the one that it takes for the last."""
    messages: list[Json] = []
    async with asyncio.timeout(WAIT_SECONDS):
        while not messages or not until(messages[-1]):
            messages.append(json.loads(await socket.recv(), parse_float=Decimal))
    return messages


async def place(api: Api, order: Json) -> str:
    response = await api.http.post("/api/orders/execute", json=order)
    assert (response.status_code, response.json()["status"]) == (202, "pending")
    return str(response.json()["orderId"])


def by_status(message: Json) -> bool:
    return message["status"] in ("confirmed", "failed")


class Client(Struct, kw_only=True):
    """How one family connects and asks (``{}``: the order's id), when it stops, and what it shows of all messages."""

    path: str
    says: str | None = None
    until: Callable[[Json], bool] = by_status
    shows: Callable[[list[Json]], Any]
    truth: Callable[[Truth], Any]
    order: Json | None = None
    """SELL, unless it is given."""


def flat_row(message: Json) -> tuple[Any, ...]:
    return message["orderId"], message["status"], message["message"], message["timestamp"]


def flat_truth(order: Truth) -> list[Any]:
    return [(order.id, *rest) for rest in zip(STATUSES, MESSAGES, order.times, strict=True)]


def members(*names: str) -> Callable[[list[Json]], Any]:
    """The last message's."""
    return lambda messages: [messages[-1][name] for name in names]


SUBSCRIBE = '{{"type":"subscribe","orderId":"{}"}}'
A_PRIME = members("orderId", "status", "txHash", "dex", "selectedDex", "executedPrice")


def a_prime_truth(order: Truth) -> list[Any]:
    return [order.id, "confirmed", order.tx, order.venue, order.venue, order.price]


CLIENTS: dict[str, Client] = {
    "A, with its order in the path": Client(
        path="/api/orders/{}/status", shows=lambda said: [flat_row(one) for one in said], truth=flat_truth
    ),
    "A, data": Client(
        path="/ws?orderId={}",
        shows=lambda said: (
            [said[2]["data"]["quotes"], said[3]["data"]["routingDecision"]["selectedDex"]]
            + [said[5]["data"][name] for name in ("status", "txHash", "executedPrice")]
        ),
        truth=lambda order: [order.quotes, order.venue, "confirmed", order.tx, order.price],
    ),
    "A', a sell": Client(path="/api/orders/execute?orderId={}", shows=A_PRIME, truth=a_prime_truth),
    "A', a buy": Client(path="/api/orders/execute/{}", order=BUY, shows=A_PRIME, truth=a_prime_truth),
    "A', other names of the price": Client(
        path="/ws/{}",
        shows=members("txHash", "executedPrice", "dex"),
        truth=lambda order: [order.tx, order.price, order.venue],
    ),
    "A', with detail and milliseconds": Client(
        path="/api/orders/execute?orderId={}",
        shows=lambda said: [(one["detail"], len(str(one["tsMs"]))) for one in said],
        truth=lambda order: [(message, 13) for message in MESSAGES],
    ),
    "A', snake case, asked by the bare id": Client(
        path="/api/orders/execute",
        says="{}",
        shows=members("order_id", "status", "tx_hash", "executed_price"),
        truth=lambda order: [order.id, "confirmed", order.tx, order.price],
    ),
    "A', asked by a message": Client(
        path="/api/orders/status", says='{{"orderId":"{}"}}', shows=A_PRIME, truth=a_prime_truth
    ),
    "A', asked by a path of its own": Client(path="/api/orders/status/{}", shows=A_PRIME, truth=a_prime_truth),
    "A', with a result": Client(
        path="/api/orders/stream/{}",
        shows=lambda said: said[-1]["result"]["venue"],
        truth=lambda order: order.venue,
    ),
    "B, status_update": Client(
        path="/api/orders/execute?orderId={}",
        shows=lambda said: [one["status"] for one in said if one["type"] == "status_update"],
        truth=lambda order: STATUSES,
    ),
    "B, a type for each stage": Client(
        path="/api/orders/{}/stream",
        until=lambda message: message["type"] in ("execution_result", "error"),
        shows=lambda said: [(one["type"], one["status"]) for one in said],
        truth=lambda order: [
            ("routing_info" if number == 2 else "execution_result" if number == 5 else "status_update", status)
            for number, status in enumerate(STATUSES)
        ],
    ),
    "B, a type for the end": Client(
        path="/ws/orders/{}",
        until=lambda message: message["type"] in ("orderComplete", "orderFailed"),
        shows=lambda said: [[one["type"] for one in said], said[-1]["txSignature"], said[-1]["price"]],
        truth=lambda order: [["orderStatus"] * 5 + ["orderComplete"], order.tx, order.price],
    ),
    "B', numbered": Client(
        path="/ws",
        says=SUBSCRIBE,
        until=lambda message: message["type"] in ("confirmed", "failed"),
        shows=lambda said: [
            *((one["type"], one["sequenceNumber"], one["timestamp"]) for one in said),
            said[-1]["payload"]["txHash"],
        ],
        truth=lambda order: [
            *zip(("status",) * 3 + ("routed", "submitted", "confirmed"), range(1, 7), order.times, strict=True),
            order.tx,
        ],
    ),
    "B', in upper case, asked by a payload": Client(
        path="/ws",
        says='{{"type":"subscribe","payload":{{"orderId":"{}"}}}}',
        until=lambda message: message["payload"]["status"] in ("CONFIRMED", "FAILED"),
        shows=lambda said: [
            [(one["type"], one["payload"]["status"], one["payload"]["message"]) for one in said],
            said[2]["payload"]["metadata"]["quotes"],
        ],
        truth=lambda order: [
            [("order-update", status.upper(), text) for status, text in zip(STATUSES, MESSAGES, strict=True)],
            order.quotes,
        ],
    ),
    "C, our own": Client(
        path="/api/orders/ws?orderId={}",
        until=lambda message: message["event"] == "confirmed",
        shows=lambda said: [
            [one["event"] for one in said],
            *(said[2]["quotes"], said[3]["chosen"]["venue"], said[4]["txId"], said[5]["receipt"]["venue"]),
        ],
        truth=lambda order: [
            ["pending", "routing", "routing:quotes", "building", "submitted", "confirmed"],
            *(order.quotes, order.venue, order.tx, order.venue),
        ],
    ),
    "C, one event name": Client(
        path="/api/orders/{}/stream",
        shows=lambda said: [(one["event"], one["orderId"], one["data"]["status"]) for one in said],
        truth=lambda order: [("order:update", order.id, status) for status in STATUSES],
    ),
    "phases": Client(
        path="/api/orders/{}/status",
        until=lambda message: message["phase"] in ("COMPLETED", "FAILED"),
        shows=lambda said: [one["phase"] for one in said],
        truth=lambda order: ["PENDING", *["PROCESSING"] * 4, "COMPLETED"],
    ),
}


def test_each_family_reads_what_it_expects(redis_url: str) -> None:
    async def scenario(api: Api) -> None:
        for name, client in CLIENTS.items():
            order_id = await place(api, client.order or SELL)
            async with connected(api, path=client.path.format(order_id)) as socket:
                if client.says is not None:
                    await socket.send(client.says.format(order_id))
                messages = await read(socket, client.until)
            order = await truth(api, order_id)
            assert client.shows(messages) == client.truth(order), name

    on_engine(redis_url, scenario)


@pytest.mark.parametrize(
    ("path", "first", "shows"),
    [
        ("/api/orders/ws", BUY, lambda said: said["event"]),
        ("/api/orders/execute", {"action": "execute", "order": SELL}, lambda said: said["type"]),
        ("/api/orders/execute", SELL, lambda said: said["type"]),
    ],
)
def test_an_order_that_is_the_first_message_is_placed_and_followed(
    redis_url: str, path: str, first: Json, shows: Callable[[Json], str]
) -> None:
    async def scenario(api: Api) -> None:
        async with connected(api, path=path) as socket:
            await socket.send(json.dumps(first))
            messages = await read(socket, by_status)
        order = await truth(api, messages[0]["orderId"])
        kinds = {
            "/api/orders/ws": ["pending", "routing", "routing:quotes", "building", "submitted", "confirmed"],
            "/api/orders/execute": ["status" if "action" in first else "status_update"] * 6,
        }
        assert [shows(message) for message in messages] == kinds[path]
        assert [message["status"] for message in messages] == STATUSES
        assert messages[-1]["txId"] == order.tx
        if "action" in first:
            assert (messages[-1]["transactionHash"], messages[-1]["executionPrice"]) == (order.tx, order.price)

    on_engine(redis_url, scenario)


def test_broadcasts_name_the_client_or_both_statuses(redis_url: str) -> None:
    async def scenario(api: Api) -> None:
        async with (
            connected(api, path="/ws?clientId=user01") as mine,
            connected(api, path="/ws?scope=all") as everything,
        ):
            await mine.send('{"type":"ping"}')
            await everything.send('{"type":"ping"}')
            assert json.loads(await mine.recv()) == json.loads(await everything.recv()) == {"type": "pong"}
            order_id = await place(api, SELL)
            channel = await read(mine, lambda message: message["payload"]["status"] == "confirmed")
            changes = await read(everything, lambda message: message["currentStatus"] == "confirmed")
        order = await truth(api, order_id)
        assert [(one["event"], one["payload"]["orderId"], one["payload"]["status"]) for one in channel] == [
            ("order:update", order_id, status) for status in STATUSES
        ]
        assert channel[-1]["payload"]["txHash"] == order.tx
        assert [
            (one["orderId"], one.get("previousStatus"), one["currentStatus"], one["timestamp"]) for one in changes
        ] == [(order_id, *rest) for rest in zip([None, *STATUSES], STATUSES, order.times, strict=False)]

    on_engine(redis_url, scenario)


def test_a_client_that_comes_back_is_told_the_status_before(redis_url: str) -> None:
    async def scenario(api: Api) -> None:
        order_id = await place(api, BUY)
        async with connected(api, path="/ws?scope=all&after=start") as socket:
            whole = await read(socket, lambda message: message["currentStatus"] == "confirmed")
        after = whole[3]["cursor"]
        async with connected(api, path=f"/ws?scope=all&after={after}") as socket:
            rest = await read(socket, lambda message: message["currentStatus"] == "confirmed")
        assert rest == whole[4:]
        assert [one["previousStatus"] for one in rest] == ["building", "submitted"]
        assert rest[-1]["executedPrice"] == (await truth(api, order_id)).price

    on_engine(redis_url, scenario)


@pytest.mark.parametrize(
    ("path", "kind", "ended"),
    [
        ("/api/orders/{}/status", "order_update", "order_update"),
        ("/ws/orders/{}", "orderStatus", "orderFailed"),
        ("/api/orders/{}/stream", "status_update", "error"),
    ],
)
def test_failed_comes_once_with_its_error_and_retries_look_like_neither(
    redis_url: str, path: str, kind: str, ended: str
) -> None:
    async def scenario(api: Api) -> None:
        order_id = await place(api, SELL)
        async with connected(api, path=path.format(order_id)) as socket:
            messages = await read(socket, by_status)
            # Nothing comes after the end.
            await socket.send('{"type":"ping"}')
            assert json.loads(await socket.recv()) == {"type": "pong"}
        assert [message["status"] for message in messages].count("failed") == 1
        assert [(one["type"], one["error"]) for one in messages if "error" in one] == [(ended, NO_QUOTE)]
        assert messages[-1]["data"]["error"] == messages[-1]["message"] == NO_QUOTE
        retries = [one for one in messages if "nextRetryAt" in one["data"]]
        assert [(one["status"], one["data"]["attempt"], one["data"]["lastError"]) for one in retries] == [
            ("pending", 2, NO_QUOTE),
            ("pending", 3, NO_QUOTE),
        ]
        events = (await api.http.get(f"/api/orders/{order_id}/events")).json()["events"]
        due = [event["retry"]["dueAt"] for event in events if "retry" in event]
        assert [one["data"]["nextRetryAt"] for one in retries] == due

    on_engine(redis_url, scenario, NO_QUOTES)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/ws/orders/nonsense", "order_id_malformed"),
        ("/api/orders/execute?orderId=nonsense", "order_id_malformed"),
        ("/ws/01ARZ3NDEKTSV4RRFFQ69G5FAV-03", "not_found"),
    ],
)
def test_a_refusal_is_an_error_in_words_for_clients_that_know_no_codes(redis_url: str, path: str, code: str) -> None:
    async def scenario(api: Api) -> None:
        async with connected(api, path=path) as socket:
            said = json.loads(await socket.recv())
            assert (said["type"], said["error"], said["code"]) == ("error", said["message"], code)
            await socket.send('{"tokenIn":"SOL"}')
            said = json.loads(await socket.recv())
            assert (said["type"], said["error"], said["code"]) == ("error", said["message"], "invalid_order")
        async with connected(api) as socket:
            await socket.send('{"tokenIn":"SOL"}')
            assert "error" not in json.loads(await socket.recv())

    on_engine(redis_url, scenario)


def test_a_subscription_with_a_name_has_our_own_frames_on_every_path(redis_url: str) -> None:
    async def scenario(api: Api) -> None:
        order_id = await place(api, SELL)
        async with connected(api, path=f"/ws?orderId={order_id}") as socket:
            await read(socket, by_status)
            await socket.send(json.dumps({"type": "subscribe", "sub": "s", "orderId": order_id}))
            messages = await read(socket, lambda message: message.get("type") == "unsubscribed")
        stored = (await api.http.get(f"/api/orders/{order_id}/events")).json()["events"]
        own = [message for message in messages if "event" in message]
        assert own == [{"sub": "s", "replay": True, **event} for event in stored]

    on_engine(redis_url, scenario)

"""Daily volumes and venues' shares: computed exactly, listed by day, pair and venue, over HTTP."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import date

import pytest

from app.orders.events import Side
from eventstore.memory import MemoryEventStore
from eventstore.store import Append
from projections.queries.volumes import list_volumes
from tests.builders import stream_id
from tests.clocks import START_US
from tests.conftest import accepted, appends, confirmed, database, execute, filled, project, routed, submitted
from tests.integration.api import Api, problem, running

DAY_US = 86_400_000_000


def traded(client: str, *, paid: str, received: str, side: Side = "sell", day: int = 0) -> list[Append]:
    """The life of an order that Raydium filled, so many days after the first."""
    life = [[accepted(side)], *routed(side=side), [submitted()], [confirmed(paid=paid, received=received)]]
    return appends(stream_id(client), life, client=client, start_us=START_US + day * DAY_US)


def on_meteora(url: str, client: str) -> None:
    """Let the volumes of a client be Meteora's."""
    execute(url, "UPDATE volumes SET venue = 'meteora' WHERE client_id = %s", client)


def on_http(url: str, store: MemoryEventStore, scenario: Callable[[Api], Awaitable[None]]) -> None:
    async def main() -> None:
        async with running(store, url) as api:
            await scenario(api)

    asyncio.run(main())


def two_venues(url: str) -> MemoryEventStore:
    """Alice and Bob on one day, on two venues; Alice on the next, too."""
    store = filled(
        [
            *traded("alice", paid="1.5", received="300"),
            *traded("alice", paid="300", received="1.5", side="buy"),
            *traded("bob", paid="1", received="200.000001"),
            *traded("alice", paid="0.000000001", received="0.000001", day=1),
        ]
    )
    project(url, store)
    on_meteora(url, "bob")
    return store


def test_volumes_are_summed_by_day_pair_and_venue_with_each_venues_share(database_url: str) -> None:
    store = two_venues(database_url)

    async def scenario(api: Api) -> None:
        answer = (await api.http.get("/api/volumes")).json()
        assert [(each["day"], each["venue"], each["orders"]) for each in answer["volumes"]] == [
            ("2027-01-16", "raydium", 1),
            ("2027-01-15", "meteora", 1),
            ("2027-01-15", "raydium", 2),
        ]
        newest, bob, alice = answer["volumes"]
        assert (alice["pair"], alice["baseVolume"], alice["quoteVolume"]) == ("SOL/USDC", "3", "600")
        # A fee is in what its order paid in: SOL for the sale, USDC for the purchase.
        assert (alice["baseFee"], alice["quoteFee"]) == ("0.00375", "0.00375")
        assert (bob["shareBps"], alice["shareBps"], newest["shareBps"]) == (2500, 7500, 10_000)
        assert (newest["baseVolume"], bob["quoteVolume"]) == ("0.000000001", "200.000001")
        assert sum(answer["asOf"]["positions"].values()) == 24

    on_http(database_url, store, scenario)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("clientId=bob", [("2027-01-15", "meteora", 10_000)]),
        ("clientId=nobody", []),
        ("from=2027-01-16", [("2027-01-16", "raydium", 10_000)]),
        ("to=2027-01-15&clientId=alice", [("2027-01-15", "raydium", 10_000)]),
        ("pair=SOL/USDC&limit=1", [("2027-01-16", "raydium", 10_000)]),
        ("pair=ETH/USDC", []),
    ],
)
def test_volumes_are_filtered(database_url: str, query: str, found: list[tuple[str, str, int]]) -> None:
    async def scenario(api: Api) -> None:
        volumes = (await api.http.get(f"/api/volumes?{query}")).json()["volumes"]
        assert [(each["day"], each["venue"], each["shareBps"]) for each in volumes] == found

    on_http(database_url, two_venues(database_url), scenario)


@pytest.mark.parametrize("query", ["from=yesterday", "to=2027-13-01", "pair=SOL", "pair=/", "limit=0", "venue=raydium"])
def test_a_query_that_is_not_understood_is_refused(database_url: str, query: str) -> None:
    async def scenario(api: Api) -> None:
        problem(await api.http.get(f"/api/volumes?{query}"), 400, "invalid_query")

    on_http(database_url, two_venues(database_url), scenario)


def test_volumes_that_are_yet_to_be_built_are_not_answered_as_none(database_url: str) -> None:
    store = two_venues(database_url)
    execute(database_url, "DELETE FROM checkpoints WHERE projection = 'volumes' AND partition = 3")

    async def scenario(api: Api) -> None:
        problem(await api.http.get("/api/volumes"), 503, "unavailable")

    on_http(database_url, store, scenario)


def test_sums_beyond_64_bits_stay_exact(database_url: str) -> None:
    project(database_url, filled(traded("alice", paid="1", received="1")))
    huge = 3 * 2**64 + 1
    execute(database_url, "UPDATE volumes SET base_units = %s, quote_units = 0", huge)

    async def scenario() -> None:
        async with database(database_url) as engine:
            (volume,) = await list_volumes(engine, limit=1, first=date(2027, 1, 1))
            assert (volume.base_units, volume.quote_units, volume.share_bps) == (huge, 0, 10_000)
            with pytest.raises(ValueError, match="limit must be 1 to 1000"):
                await list_volumes(engine, limit=0)

    asyncio.run(scenario())

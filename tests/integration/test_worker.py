"""A worker on real servers: attempts, retries, timers, drains; the chain's own ledger is the oracle."""

import asyncio
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import pytest

from app.clock import SystemClock
from app.dex.profile import Profile
from app.execution.streams import OrderHead, OrderStreams
from app.main import build_streams, build_worker, open_chain, open_hot_store
from app.orders.commands import PlaceOrder, StartAttempt
from app.orders.events import Side
from app.orders.state import Confirmed, Failed, Terminal
from app.settings import Settings
from eventstore.canonical import chain_fault
from eventstore.redis.store import RedisEventStore

END_SECONDS = 30
CALM = Profile(venue_error_ppm=0, venue_timeout_ppm=0, drop_ppm=0, fork_ppm=0)


class Bench:
    """An event store, a chain and order streams of their own."""

    def __init__(self, settings: Settings, store: RedisEventStore, redis_url: str, profile: Profile) -> None:
        self.settings = settings
        self.store = store
        self.profile = profile
        self.chain, self.connection = open_chain(settings, redis_url, profile)
        self.streams: OrderStreams = build_streams(store, SystemClock(), "test")

    async def place(self, side: Side = "sell", slippage_bps: int = 100, amount: int = 1_000_000_000) -> str:
        order_id = self.streams.new_order_id(f"client {secrets.token_hex(2)}", None)
        command = PlaceOrder(
            side=side,
            base_asset="SOL",
            quote_asset="USDC",
            base_decimals=9,
            quote_decimals=6,
            amount=amount,
            slippage_bps=slippage_bps,
        )
        await self.streams.place(order_id, "client", command)
        return order_id

    async def run_until_ended(self, order_ids: Sequence[str], workers: int = 1) -> list[OrderHead]:
        """Work until every order has ended, then drain; everything owed must be gone from the store."""
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                worker = build_worker(self.settings, self.store, self.chain, SystemClock(), profile=self.profile)
                group.create_task(worker.run(stopping))
            async with asyncio.timeout(END_SECONDS):
                heads = [await self.ended(order_id) for order_id in order_ids]
            stopping.set()
            await self.end_waits()
        assert sum(part.tasks + part.pending + part.timers for part in await self.store.status()) == 0
        return heads

    async def end_waits(self) -> None:
        """Let workers that wait for tasks see at once that they are to stop."""
        listing: bytes = await self.connection.execute("CLIENT", "LIST")
        for line in listing.decode().splitlines():
            fields = dict(part.split("=", 1) for part in line.split())
            if "b" in fields["flags"]:
                await self.connection.execute("CLIENT", "UNBLOCK", fields["id"])

    async def ended(self, order_id: str) -> OrderHead:
        while not isinstance((head := await self.streams.load(order_id)).state, Terminal):
            await self.store.read_log(await self.store.log_ends(), 100, 0.1)
        return head

    async def frames(self, order_id: str) -> list[dict[str, object]]:
        prev, frames = "", []
        for event in await self.store.read_stream(order_id):
            assert chain_fault(event.data, prev) is None
            prev = event.hash
            frames.append(msgspec.json.decode(event.data, type=dict[str, object]))
        return frames

    async def swaps(self) -> Counter[str]:
        return Counter(entry.order_id for entry in await self.chain.ledger() if entry.outcome == "executed")


def on_bench(redis_url: str, scenario: Callable[[Bench], Awaitable[None]], profile: Profile = CALM) -> None:
    """Run a scenario at speed 0 in a namespace of its own."""

    async def run() -> None:
        settings = Settings(namespace=f"w{secrets.token_hex(5)}", speed_ppm=0, claim_idle_ms=6_000)
        store = await open_hot_store(settings, redis_url, "test")
        bench = Bench(settings, store, redis_url, profile)
        try:
            await scenario(bench)
        finally:
            await bench.connection.close()
            await store.close()

    asyncio.run(run())


def names(frames: list[dict[str, object]]) -> list[object]:
    return [frame["event"] for frame in frames]


@pytest.mark.parametrize("side", ["buy", "sell"])
def test_a_market_order_lives_from_pending_to_confirmed(redis_url: str, side: Side) -> None:
    async def scenario(bench: Bench) -> None:
        order_id = await bench.place(side)
        await bench.run_until_ended([order_id])
        frames = await bench.frames(order_id)
        assert names(frames) == ["pending", "routing", "routing:quotes", "building", "submitted", "confirmed"]
        assert await bench.swaps() == {order_id: 1}

    on_bench(redis_url, scenario)


def test_best_route_selection_takes_the_better_of_both_quotes(redis_url: str) -> None:
    async def scenario(bench: Bench) -> None:
        order_ids = [await bench.place(side) for side in ("buy", "sell") for _ in range(20)]
        await bench.run_until_ended(order_ids)
        venues: set[str] = set()
        for order_id in order_ids:
            pending, _, quoted, built, *_ = await bench.frames(order_id)
            amounts = {quote["venue"]: float(quote["amount"]) for quote in quoted["quotes"]}  # type: ignore[attr-defined]
            best = (max if pending["side"] == "sell" else min)(amounts.values())
            chosen = built["chosen"]["venue"]  # type: ignore[index]
            assert amounts[chosen] == best
            assert 0.02 <= abs(amounts["raydium"] - amounts["meteora"]) / best <= 0.05
            venues.add(chosen)
        assert venues == {"raydium", "meteora"}

    on_bench(redis_url, scenario)


def test_task_addition_is_part_of_accepting_an_order(redis_url: str) -> None:
    async def scenario(bench: Bench) -> None:
        order_id = await bench.place()
        assert sum(part.tasks for part in await bench.store.status()) == 1
        (task,) = await bench.store.take_tasks("w", 10)
        assert (task.stream, task.kind) == (order_id, "attempt")

    on_bench(redis_url, scenario)


def test_worker_retry_ends_in_one_failed_after_three_attempts_when_no_venue_answers(redis_url: str) -> None:
    async def scenario(bench: Bench) -> None:
        order_id = await bench.place()
        (head,) = await bench.run_until_ended([order_id])
        frames = await bench.frames(order_id)
        attempt = ["routing", "routing:quotes"]
        assert names(frames) == [
            *["pending", *attempt, "retrying", *attempt, "retrying"],
            *[*attempt, "attempt_failed", "failed"],
        ]
        assert isinstance(head.state, Failed)
        assert head.state.error.code == "no_quote"
        assert [frame["attempt"] for frame in frames if frame["event"] == "routing"] == [1, 2, 3]
        assert await bench.swaps() == {}

    on_bench(redis_url, scenario, msgspec.structs.replace(CALM, venue_error_ppm=1_000_000))


def test_one_venue_failing_leaves_the_order_with_the_other(redis_url: str) -> None:
    async def scenario(bench: Bench) -> None:
        order_ids = [await bench.place() for _ in range(30)]
        await bench.run_until_ended(order_ids)
        alone = 0
        for order_id in order_ids:
            for frame in await bench.frames(order_id):
                if frame["event"] == "building" and "runnerUp" not in frame:
                    alone += 1
        assert alone > 0

    on_bench(redis_url, scenario, msgspec.structs.replace(CALM, venue_error_ppm=400_000))


def test_a_swap_that_never_lands_is_proven_expired_before_the_next_attempt(redis_url: str) -> None:
    async def scenario(bench: Bench) -> None:
        order_id = await bench.place()
        (head,) = await bench.run_until_ended([order_id])
        assert isinstance(head.state, Failed)
        assert head.state.error.code == "blockhash_expired"
        ended = [frame for frame in await bench.frames(order_id) if frame["event"] in ("retrying", "attempt_failed")]
        assert len(ended) == 3
        for frame in ended:
            proof = frame["proof"]
            assert proof["height"] > proof["lastValidHeight"]  # type: ignore[index]
        assert len({frame["proof"]["txId"] for frame in ended}) == 3  # type: ignore[index]
        assert await bench.swaps() == {}

    on_bench(redis_url, scenario, msgspec.structs.replace(CALM, drop_ppm=1_000_000))


def test_a_swap_that_fails_on_chain_is_tried_again_and_then_failed_with_its_reason(redis_url: str) -> None:
    async def scenario(bench: Bench) -> None:
        order_id = await bench.place()
        (head,) = await bench.run_until_ended([order_id])
        assert isinstance(head.state, Failed)
        assert head.state.error.code == "swap_rejected"
        assert await bench.swaps() == {}

    on_bench(redis_url, scenario, msgspec.structs.replace(CALM, program_error_ppm=1_000_000))


def test_dropped_broadcasts_are_sent_again_with_the_same_bytes(redis_url: str) -> None:
    async def scenario(bench: Bench) -> None:
        order_ids = [await bench.place() for _ in range(20)]
        heads = await bench.run_until_ended(order_ids)
        assert all(isinstance(head.state, Confirmed) for head in heads)
        assert await bench.swaps() == dict.fromkeys(order_ids, 1)

    on_bench(redis_url, scenario, msgspec.structs.replace(CALM, drop_ppm=500_000))


def test_competing_workers_execute_each_order_once(redis_url: str) -> None:
    async def scenario(bench: Bench) -> None:
        order_ids = [await bench.place() for _ in range(40)]
        await bench.run_until_ended(order_ids, workers=3)
        assert await bench.swaps() == dict.fromkeys(order_ids, 1)

    on_bench(redis_url, scenario)


def test_a_claimed_task_of_an_attempt_that_was_begun_continues_that_attempt(redis_url: str) -> None:
    async def scenario(bench: Bench) -> None:
        order_id = await bench.place()
        (task,) = await bench.store.take_tasks("dead", 10)
        await bench.streams.record(await bench.streams.load(order_id), StartAttempt(), task)
        bench.settings = msgspec.structs.replace(bench.settings, task_ms=500, quote_timeout_ms=400, claim_idle_ms=600)
        await bench.run_until_ended([order_id])
        frames = await bench.frames(order_id)
        assert names(frames).count("routing") == 1
        assert await bench.swaps() == {order_id: 1}

    on_bench(redis_url, scenario)


def test_six_events_of_a_market_order_stay_lean(redis_url: str) -> None:
    async def scenario(bench: Bench) -> None:
        order_id = await bench.place()
        await bench.run_until_ended([order_id])
        stored = await bench.store.read_stream(order_id)
        assert len(stored) == 6
        assert sum(len(event.data) for event in stored) <= 3_400

    on_bench(redis_url, scenario)

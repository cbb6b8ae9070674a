"""What must be true after a run, checked against the chain's ledger, both copies, and what clients were told."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.audit.verify import verify
from app.clock import SystemClock
from app.dex.chain import LedgerEntry
from app.orders.lifecycle import TERMINAL
from projections.archive.store import ArchivedEventStore
from projections.diff import diff
from projections.models.orders import orders
from tests.nemesis.load import Load
from tests.nemesis.plans import Plan


async def findings(
    plan: Plan, store: ArchivedEventStore, engine: AsyncEngine, ledger: Sequence[LedgerEntry], load: Load
) -> list[str]:
    """Return everything that is not as promised, for people; [] for a clean run."""
    rows = await _rows(engine)
    found = list(load.wrong)
    found += [f"verify: {one}" for one in (await verify(store, engine, SystemClock().now_us)).findings]
    found += [f"diff: {one}" for one in await diff(store, engine)]
    found += await _unfinished(store, rows)
    found += _swaps(rows, ledger)
    found += _acknowledged(plan, rows, load)
    found += _keys(plan, rows, load)
    found += await _views(plan, store, rows, load)
    return found


async def _rows(engine: AsyncEngine) -> dict[str, Any]:
    async with engine.connect() as connection:
        return {row.id: row for row in await connection.execute(select(orders))}


async def _unfinished(store: ArchivedEventStore, rows: dict[str, Any]) -> list[str]:
    found = [f"unfinished: {row.id} is {row.status}" for row in rows.values() if row.status not in TERMINAL]
    for part in await store.status():
        if part.tasks or part.timers or part.waiting or part.parked:
            found.append(f"left over: {part}")
    return found


def _swaps(rows: dict[str, Any], ledger: Sequence[LedgerEntry]) -> list[str]:
    """The ledger decides: one executed swap for a confirmed order, none for any other."""
    executed: defaultdict[str, list[LedgerEntry]] = defaultdict(list)
    for entry in ledger:
        if entry.outcome == "executed":
            executed[entry.order_id].append(entry)
    found = [
        f"swapped {len(entries)} times: {order_id}, by {[(one.signature, one.slot) for one in entries]}"
        for order_id, entries in executed.items()
        if len(entries) > 1
    ]
    for order_id, entries in executed.items():
        row = rows.get(order_id)
        if row is None:
            found.append(f"swapped without an order: {order_id}")
        elif row.status != "confirmed":
            found.append(f"swapped, but {row.status}: {order_id}")
        elif row.tx_id not in {entry.signature for entry in entries}:
            found.append(f"confirmed by {row.tx_id}, which the ledger does not have: {order_id}")
    found += [
        f"confirmed without a swap: {row.id}"
        for row in rows.values()
        if row.status == "confirmed" and row.id not in executed
    ]
    return found


def _acknowledged(plan: Plan, rows: dict[str, Any], load: Load) -> list[str]:
    if not plan.kept:
        return []
    lost = [answer for answer in load.answers if answer.order_id not in rows]
    revived = [order_id for order_id in load.cancelled if order_id in rows and rows[order_id].status != "cancelled"]
    return [f"acknowledged at {plan.ack_level} and lost: {answer}" for answer in lost] + [
        f"told that it was cancelled at {plan.ack_level}, but {rows[order_id].status}: {order_id}"
        for order_id in revived
    ]


def _keys(plan: Plan, rows: dict[str, Any], load: Load) -> list[str]:
    owners: Counter[tuple[str, str]] = Counter()
    for row in rows.values():
        if row.idempotency_key is not None:
            owners[(row.client_id, row.idempotency_key)] += 1
    found = [f"{count} orders of one key: {key}" for key, count in owners.items() if count > 1]
    answered: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for answer in load.answers:
        if answer.key is not None:
            answered[answer.key].add(answer.order_id)
    for key, ids in answered.items():
        # What a loss took at a level that does not promise to survive it was accepted anew.
        if len(ids) > 1 and (plan.kept or len(ids & rows.keys()) > 1):
            found.append(f"one key was answered with different orders: {key}, {sorted(ids)}")
    return found


async def _views(plan: Plan, store: ArchivedEventStore, rows: dict[str, Any], load: Load) -> list[str]:
    """Every client's view is its order's stream in the end; without a loss nobody was ever told of one."""
    found: list[str] = []
    for view in load.views.values():
        hashes = [event.hash for event in await store.read_stream(view.order_id)]
        name = f"a view of {len(view.events)} events of {view.order_id}, told of {view.lost or 'no loss'},"
        if [event["meta"]["hash"] for event in view.events] != hashes:
            found.append(f"{name} is not its stream of {len(hashes)}")
        if not plan.loses and (view.lost or view.seen - set(hashes)):
            found.append(
                f"{name} has seen {len(view.seen - set(hashes))} events that are gone, though nothing was lost"
            )
        if not view.events and view.order_id in rows:
            found.append(f"{name} never found its order")
    return found

"""Leases: one owner per partition, spread over the projectors that live, with a token that fences the owner before.

Time is PostgreSQL's clock alone. A lease is looked at again under the checkpoint's lock, in the transaction that
writes, so whoever lost one cannot commit, however late it wakes up.
"""

import asyncio
import os
import secrets
from collections.abc import Collection, Iterable
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from projections.database import reading
from projections.projector.writing import bounded

LEASE_SECONDS: Final = 5.0
"""How long an owner that says nothing keeps its partitions."""
RENEW_SECONDS: Final = 1.0
"""Time between two words of a projector that lives; the bound on how late a free partition is noticed."""

_alive: Final = text(
    "WITH mine AS (INSERT INTO projectors (name, until) VALUES (:name, now() + make_interval(secs => :seconds)) "
    "ON CONFLICT (name) DO UPDATE SET until = excluded.until RETURNING name), "
    "gone AS (DELETE FROM projectors WHERE until < now() - interval '1 minute' AND name <> :name) "
    "SELECT name FROM mine UNION SELECT name FROM projectors WHERE until > now() ORDER BY name"
)
_renew: Final = text(
    "UPDATE leases SET until = now() + make_interval(secs => :seconds) WHERE owner = :name RETURNING partition, token"
)
_free: Final = text(
    "SELECT partition FROM leases WHERE owner IS NULL OR until <= now() ORDER BY partition "
    "LIMIT :most FOR UPDATE SKIP LOCKED"
)
_take: Final = text(
    "UPDATE leases SET owner = :name, token = token + 1, problem = NULL, "
    "until = now() + make_interval(secs => :seconds) "
    "WHERE partition = ANY(:partitions) RETURNING partition, token"
)
_release: Final = text(
    "UPDATE leases SET owner = NULL, until = now() WHERE owner = :name AND partition = ANY(:partitions)"
)
_leave: Final = text("DELETE FROM projectors WHERE name = :name")
_say: Final = text(
    "UPDATE leases SET problem = :problem "
    "WHERE partition = :partition AND owner = :name AND problem IS DISTINCT FROM :problem"
)
_tokens: Final = text(
    "SELECT partition, token FROM leases WHERE owner = :name AND partition = ANY(:partitions) FOR SHARE"
)
_lock_all: Final = text("SELECT partition FROM leases ORDER BY partition FOR UPDATE")


class Leases:
    """The partitions that one projector owns.

    Args:
        engine: disposed of by the caller.
        name: of this projector, unlike every other's; None: made up.
    """

    def __init__(self, engine: AsyncEngine, name: str | None = None) -> None:
        self._engine = engine
        self.name: Final = name or f"{os.uname().nodename}-{os.getpid()}-{secrets.token_hex(3)}"
        self.held: dict[int, int] = {}
        """Token by partition, as of the last word."""
        self.problems: dict[int, str] = {}
        """Why partitions of ours stand still, as far as they do."""
        self._said_at: float | None = None

    @property
    def is_due(self) -> bool:
        """Whether it is time to say that this projector lives."""
        now = asyncio.get_running_loop().time()
        return self._said_at is None or now - self._said_at >= RENEW_SECONDS

    async def renew(self) -> None:
        """Say that this projector lives; keep its partitions, take free ones up to its share, give up what is over it.

        Every projector computes the same shares: they differ by one partition at most.
        """
        async with bounded(self._engine) as connection:
            ours = {"name": self.name, "seconds": LEASE_SECONDS}
            alive = list(await connection.scalars(_alive, ours))
            held = {row[0]: row[1] for row in await connection.execute(_renew, ours)}
            partitions = (await connection.execute(text("SELECT count(*) FROM leases"))).scalar_one()
            share = share_of(alive.index(self.name), len(alive), partitions)
            if len(held) < share:
                free = list(await connection.scalars(_free, {"most": share - len(held)}))
                held.update(await self._take(connection, free))
            for partition in sorted(held)[share:]:
                await connection.execute(_release, {"name": self.name, "partitions": [partition]})
                del held[partition]
        self.held = held
        self.problems = {number: problem for number, problem in self.problems.items() if number in held}
        self._said_at = asyncio.get_running_loop().time()

    async def take_all(self) -> None:
        """Take every partition, whoever owns it: that owner's next batch is fenced."""
        async with bounded(self._engine) as connection:
            partitions = list(await connection.scalars(_lock_all))
            self.held = await self._take(connection, partitions)

    async def _take(self, connection: AsyncConnection, partitions: Collection[int]) -> dict[int, int]:
        if not partitions:
            return {}
        ours = {"name": self.name, "seconds": LEASE_SECONDS, "partitions": list(partitions)}
        return {row[0]: row[1] for row in await connection.execute(_take, ours)}

    async def lost(self, connection: AsyncConnection, partitions: Iterable[int]) -> list[int]:
        """Return which of ``partitions`` somebody else has taken; the others stay ours until the transaction ends.

        Call it with their checkpoints locked.
        """
        wanted = list(partitions)
        found = await connection.execute(_tokens, {"name": self.name, "partitions": wanted})
        tokens = {row[0]: row[1] for row in found}
        return [number for number in wanted if number not in tokens or tokens[number] != self.held.get(number)]

    def forget(self, partitions: Collection[int]) -> None:
        """Note that these are not ours any more; :meth:`renew` may take them again."""
        for partition in partitions:
            self.held.pop(partition, None)

    async def tell(self, partition: int, problem: str | None) -> None:
        """Record why an owned partition stands still; None: it does not."""
        if self.problems.get(partition) == problem:
            return
        async with reading(self._engine) as connection:
            await connection.execute(_say, {"partition": partition, "name": self.name, "problem": problem})
        if problem is None:
            self.problems.pop(partition, None)
        else:
            self.problems[partition] = problem

    async def leave(self) -> None:
        """Give all partitions back at once. Idempotent."""
        async with bounded(self._engine) as connection:
            await connection.execute(_release, {"name": self.name, "partitions": list(self.held)})
            await connection.execute(_leave, {"name": self.name})
        self.held = {}


def share_of(rank: int, projectors: int, partitions: int) -> int:
    """Return how many of ``partitions`` the projector at ``rank`` of ``projectors``, counted from 0, should own."""
    return partitions // projectors + (rank < partitions % projectors)

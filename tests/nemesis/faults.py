"""The faults: each begins, lasts, and is over; faults of one target wait for each other, others overlap."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable

from app.embedded.processes import within
from tests.conftest import execute
from tests.nemesis.plans import Fault, Plan
from tests.nemesis.roles import Role
from tests.nemesis.world import World
from tests.servers.proxy import Fault as Loss

DOWN_SECONDS_MAX = 1.5
CUT_BYTES_MAX = 6_000
EFFECT_SECONDS_MAX = 10


class Nemesis:
    """Carries out a plan's faults on a world. ``done`` counts what really happened, by kind."""

    def __init__(self, world: World) -> None:
        self.done: Counter[str] = Counter()
        self._world = world
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._kinds: dict[str, Callable[[Fault], Awaitable[None]]] = {
            "failover": self._failover,
            "flush": self._flush,
            "aof_cut": self._aof_cut,
            "redis_kill": self._redis_kill,
            "redis_freeze": self._redis_freeze,
            "redis_cut": self._redis_cut,
            "redis_delay": self._redis_delay,
            "postgres_restart": self._postgres_restart,
            "postgres_kill": self._postgres_restart,
            "postgres_cut": self._postgres_cut,
            "postgres_freeze": self._postgres_freeze,
        }

    async def carry_out(self, plan: Plan) -> None:
        """Let everything of ``plan`` happen, each at its time."""
        async with asyncio.TaskGroup() as group:
            for fault in plan.faults:
                group.create_task(self._one(fault))

    async def _one(self, fault: Fault) -> None:
        await asyncio.sleep(fault.at_ms / 1000)
        target, _, what = fault.kind.partition("_")
        target = "redis" if target in {"failover", "flush", "aof"} else target
        if target in {"project", "worker", "serve"}:
            roles = self._world.named(target)
            number = fault.number % len(roles)
            async with self._locks[f"{target}{number}"]:
                await self._role(fault, roles[number], what)
        elif fault.kind in self._kinds:
            async with self._locks[target]:
                await self._kinds[fault.kind](fault)
        else:
            await self._lossy(fault, what)
        self.done[fault.kind] += 1

    async def _role(self, fault: Fault, role: Role, what: str) -> None:
        if what == "kill":
            role.kill()
            return
        role.freeze()
        await _passed(fault)
        role.thaw()

    async def _lossy(self, fault: Fault, what: str) -> None:
        kinds: dict[str, tuple[Loss, Callable[..., None]]] = {
            "drop_request": ("drop_request", self._world.proxy.drop_request),
            "drop_reply": ("drop_reply", self._world.proxy.drop_reply),
            "duplicate_request": ("duplicate_request", self._world.proxy.duplicate_request),
        }
        name, switch = kinds[what]
        containing = (b"EVALSHA", b"XREADGROUP", b"")[fault.number % 3] if what != "duplicate_request" else b"EVALSHA"
        async with self._locks[f"proxy {name}"]:
            before = self._world.proxy.done[name]
            switch(0.02 + fault.number / 10_000, containing=containing)
            await _passed(fault)
            switch(0.5, containing=b"EVALSHA")
            await within(EFFECT_SECONDS_MAX, lambda: self._world.proxy.done[name] > before)
            switch(0)
        if self._world.proxy.done[name] == before:
            raise TimeoutError(f"{fault.kind} met no request")

    async def _redis_kill(self, fault: Fault) -> None:
        await asyncio.to_thread(self._world.redis.kill)
        await _passed(fault, DOWN_SECONDS_MAX)
        await asyncio.to_thread(self._world.redis.start)

    async def _redis_freeze(self, fault: Fault) -> None:
        self._world.redis.freeze()
        await _passed(fault)
        self._world.redis.thaw()

    async def _redis_cut(self, _: Fault) -> None:
        await asyncio.to_thread(self._world.proxy.cut_all)

    async def _redis_delay(self, fault: Fault) -> None:
        self._world.proxy.delay(0, 10 + fault.number // 10)
        await _passed(fault)
        self._world.proxy.delay(0, 0)

    async def _failover(self, fault: Fault) -> None:
        """Promote a replica that has missed what was written for a while."""
        group = self._world.group
        await asyncio.to_thread(group.pause_replication, group.replicas[0])
        await _passed(fault)
        await asyncio.to_thread(group.failover_with_loss)

    async def _flush(self, _: Fault) -> None:
        await asyncio.to_thread(self._world.redis.command, "FLUSHALL")

    async def _aof_cut(self, fault: Fault) -> None:
        """Take away the last bytes that the server had flushed; what was there before a FLUSHALL stays away."""
        server = self._world.redis
        await asyncio.to_thread(server.kill)
        (path,) = server.data_dir.glob("appendonlydir/*.incr.aof")
        data = path.read_bytes()
        kept = max(len(data) - 1 - CUT_BYTES_MAX * fault.number // 1000, data.lower().rfind(b"flushall") + 10, 0)
        path.write_bytes(data[:kept])
        await asyncio.to_thread(server.start)

    async def _postgres_restart(self, fault: Fault) -> None:
        postgres = self._world.postgres
        await (postgres.kill() if fault.kind == "postgres_kill" else postgres.stop())
        await _passed(fault, DOWN_SECONDS_MAX)
        await postgres.start()

    async def _postgres_cut(self, fault: Fault) -> None:
        """Cut the connections, by the server or before it."""
        if fault.number % 2:
            await asyncio.to_thread(self._world.database_proxy.cut_all)
            return
        statement = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await asyncio.to_thread(execute, self._world.database_url, statement)

    async def _postgres_freeze(self, fault: Fault) -> None:
        await asyncio.to_thread(self._world.database_proxy.stall)
        await _passed(fault)
        await asyncio.to_thread(self._world.database_proxy.flow)


async def _passed(fault: Fault, seconds_max: float = 60) -> None:
    await asyncio.sleep(min(fault.for_ms / 1000, seconds_max))

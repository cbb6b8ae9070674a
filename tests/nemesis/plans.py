"""What one run draws from its seed: the servers, the levels, and which faults happen when."""

import random
from typing import Final

from msgspec import Struct

from eventstore.levels import FSYNC, MEMORY, WITNESSED, Level

FAULT_SECONDS: Final = 9.0
"""Faults begin within this time after the start."""
REPLICAS: Final = 2

LOSSES: Final = ("failover", "flush", "aof_cut")
"""Faults that take away what a Redis server had flushed."""
CRASHES: Final = (
    "redis_kill",
    "redis_freeze",
    "redis_cut",
    "redis_drop_request",
    "redis_drop_reply",
    "redis_duplicate_request",
    "redis_delay",
    "postgres_restart",
    "postgres_kill",
    "postgres_cut",
    "postgres_freeze",
    "project_kill",
    "project_freeze",
    "worker_kill",
    "worker_freeze",
    "serve_kill",
    "serve_freeze",
)
KINDS: Final = (*LOSSES, *CRASHES)


class Fault(Struct, frozen=True):
    """One thing that goes wrong ``at_ms`` after the start, for ``for_ms``."""

    at_ms: int
    kind: str
    for_ms: int
    number: int
    """Which worker, how many bytes, how likely: whatever the kind needs, 0 to 999."""

    def __str__(self) -> str:
        return f"  {self.at_ms:5} ms  {self.kind} for {self.for_ms} ms ({self.number})"


class Plan(Struct, frozen=True, kw_only=True):
    """One run; the same seed draws the same plan."""

    seed: int
    replicas: int
    ack_level: Level
    intent_level: Level
    faults: tuple[Fault, ...]

    @property
    def loses(self) -> bool:
        """Whether Redis loses what it had flushed."""
        return any(fault.kind in LOSSES for fault in self.faults)

    @property
    def kept(self) -> bool:
        """Whether this plan's acknowledgements must survive its faults."""
        return self.ack_level == WITNESSED or (self.ack_level == FSYNC and not self.loses)

    def __str__(self) -> str:
        head = (
            f"seed {self.seed}: {self.replicas} replicas, acknowledged at {self.ack_level}, "
            f"intents at {self.intent_level}"
        )
        return "\n".join([head, *map(str, self.faults)])


def plan_of(seed: int) -> Plan:
    """Return the run that ``seed`` draws."""
    chance = random.Random(seed)
    loses = chance.random() < 0.65
    replicas = REPLICAS if chance.random() < 0.45 else 0
    levels = (MEMORY, FSYNC, WITNESSED) if loses else (FSYNC, FSYNC, WITNESSED)
    ack_level = chance.choice(levels)
    kinds = chance.sample(CRASHES, k=chance.randint(4, 7))
    if loses:
        kinds += chance.sample(("flush", *(["failover"] * replicas or ["aof_cut"] * 2)), k=chance.randint(1, 2))
    faults = [
        Fault(
            at_ms=chance.randint(0, int(FAULT_SECONDS * 1000)),
            kind=kind,
            for_ms=chance.randint(150, 3_000),
            number=chance.randrange(1000),
        )
        for kind in kinds
    ]
    return Plan(
        seed=seed,
        replicas=replicas,
        ack_level=ack_level,
        intent_level=WITNESSED if loses else FSYNC,
        faults=tuple(sorted(faults, key=lambda fault: fault.at_ms)),
    )

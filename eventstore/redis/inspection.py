"""What a Redis or Valkey server says of itself and of a store on it: plain facts for others to judge."""

import re
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from eventstore.redis.connection import COMMAND_TIMEOUT_SECONDS, Pipeline, RefusedError
from eventstore.redis.opening import StoreSettings, probe_waitaof
from eventstore.redis.wire.line import Server, info_of

CONFIGURED: Final = (
    "maxmemory-policy",
    "appendonly",
    "appendfsync",
    "aof-load-truncated",
    "min-replicas-to-write",
    "stream-node-max-bytes",
)
"""The settings of a server that matter to a store."""
_SECOND_US: Final = 1_000_000


class ServerFacts(Struct, frozen=True, kw_only=True):
    """One server that takes writes."""

    address: str
    software: str
    """``Redis`` or ``Valkey``."""
    version: str
    redis_version: tuple[int, ...]
    """The Redis whose commands it has: Valkey names one too."""
    replicas: int
    is_cluster: bool
    used_memory: int
    """Bytes."""
    maxmemory: int
    """Bytes; 0: no limit."""
    config: dict[str, str]
    """Those of :data:`CONFIGURED` that it has and does not hide."""
    hidden: tuple[str, ...]
    """Those of :data:`CONFIGURED` that it refuses to tell."""
    skew_us: int
    """Its clock less this host's, in microseconds, taking both ways of the round trip to be equally long."""
    round_trip_us: int


class StoreRecord(Struct, frozen=True):
    """What a partition records of the store that it belongs to."""

    store_id: str
    partitions: int


class RedisFacts(Struct, frozen=True, kw_only=True):
    """All servers that take a store's writes, the store's records by partition, and our own client."""

    servers: tuple[ServerFacts, ...]
    records: tuple[StoreRecord | None, ...]
    """One for each partition that the settings name; None where there is none."""
    client_retries: int
    """How often our client sends a command again by itself."""
    command_timeout_ms: int = COMMAND_TIMEOUT_SECONDS * 1000


async def inspect_redis(url: str, settings: StoreSettings, now_us: Callable[[], int]) -> RedisFacts:
    """Return what the servers at ``url`` tell. Only reads.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        settings: name the store's keys; nothing is compared here.
        now_us: this host's clock, in microseconds since 1970.

    Raises:
        StoreUnavailableError: a server cannot be reached, or refuses to be read.
    """
    pipeline = Pipeline(url)
    try:
        infos = await pipeline.each_master("INFO")
        configs = await _configured(pipeline)
        clocks = await _clocks(pipeline, now_us)
        keys = [f"{settings.key_prefix(number)}:meta" for number in range(settings.partitions)]
        records = [await _record(pipeline, key) for key in keys]
    finally:
        await pipeline.close()
    servers = tuple(
        _server(address, info_of(reply), configs.get(address, {}), clocks[address]) for address, reply in infos
    )
    return RedisFacts(servers=servers, records=tuple(records), client_retries=_retries(url))


async def probe_server(url: str, settings: StoreSettings) -> int:
    """See :func:`~eventstore.redis.opening.probe_waitaof`; the server at ``url`` is asked."""
    pipeline = Pipeline(url)
    try:
        return await probe_waitaof(pipeline, f"{settings.key_prefix(0)}:doctor")
    finally:
        await pipeline.close()


def _retries(url: str) -> int:
    return Server(url, COMMAND_TIMEOUT_SECONDS).connection().retry.get_retries()


async def _record(pipeline: Pipeline, key: str) -> StoreRecord | None:
    store_id, partitions = await pipeline.execute("HMGET", key, "store", "partitions")
    return None if store_id is None else StoreRecord(store_id.decode(), int(partitions or 0))


async def _configured(pipeline: Pipeline) -> dict[str, dict[str, str | None]]:
    """Return by address what each server tells of :data:`CONFIGURED`; None for what it refuses to tell."""
    found: dict[str, dict[str, str | None]] = {}
    for name in CONFIGURED:
        for address, values in await _config(pipeline, name):
            found.setdefault(address, {}).update(values if values is not None else {name: None})
    return found


async def _config(pipeline: Pipeline, name: str) -> list[tuple[str, dict[str, str | None] | None]]:
    try:
        replies = await pipeline.each_master("CONFIG", "GET", name)
    except RefusedError:
        return [(address, None) for address, _ in await pipeline.each_master("PING")]
    return [(address, _pairs(reply)) for address, reply in replies]


def _pairs(flat: list[bytes]) -> dict[str, str | None]:
    texts = [part.decode() for part in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))


async def _clocks(pipeline: Pipeline, now_us: Callable[[], int]) -> dict[str, tuple[int, int]]:
    """Return by address the skew of each server's clock and the round trip it was measured with."""
    sent = now_us()
    replies = await pipeline.each_master("TIME")
    round_trip = now_us() - sent
    return {
        address: (int(seconds) * _SECOND_US + int(micros) - sent - round_trip // 2, round_trip)
        for address, (seconds, micros) in replies
    }


def _server(address: str, info: dict[str, str], told: dict[str, str | None], clock: tuple[int, int]) -> ServerFacts:
    version = info.get("redis_version", "0")
    # INFO tells two of the settings where CONFIG is refused.
    instead = {"maxmemory-policy": info.get("maxmemory_policy"), "appendonly": _YES_NO.get(info.get("aof_enabled", ""))}
    values = {name: told[name] or instead.get(name) for name in told}
    return ServerFacts(
        address=address,
        software="Valkey" if "valkey_version" in info else "Redis",
        version=info.get("valkey_version", version),
        redis_version=tuple(int(part) for part in re.findall(r"\d+", version)),
        replicas=int(info.get("connected_slaves", "0")),
        is_cluster=info.get("cluster_enabled") == "1",
        used_memory=int(info.get("used_memory", "0")),
        maxmemory=int(info.get("maxmemory", "0")),
        config={name: value for name, value in values.items() if value is not None},
        hidden=tuple(name for name, value in values.items() if value is None),
        skew_us=clock[0],
        round_trip_us=clock[1],
    )


_YES_NO: Final = {"0": "no", "1": "yes"}

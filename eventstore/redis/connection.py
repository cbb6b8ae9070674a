"""Connections to the Redis server: never retrying by themselves, concurrent commands sharing round trips."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig

from eventstore.errors import ConnectionLostError, EventStoreError, StoreUnavailableError
from eventstore.redis.scripts import Script

COMMAND_TIMEOUT_SECONDS: Final = 5
WAIT_SECONDS_MAX: Final = 30
"""Longest that a blocking command may wait on the server."""
MAX_PIPELINE: Final = 128
"""Most commands in one round trip."""

CONNECTION_LOST: Final = (RedisConnectionError, RedisTimeoutError, OSError)


def connect(url: str, *, wait_seconds: float = 0) -> Redis:
    """Return a client that sends each command once: redis-py's default would send a write again after a time-out.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        wait_seconds: the longest that a blocking command may wait on the server.
    """
    return Redis.from_url(
        url,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=COMMAND_TIMEOUT_SECONDS + wait_seconds,
        socket_connect_timeout=COMMAND_TIMEOUT_SECONDS,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )


class UnknownScriptError(EventStoreError):
    """The server does not have a script: send it whole."""


def _refusal(error: Exception) -> EventStoreError:
    if isinstance(error, NoScriptError):
        return UnknownScriptError(str(error))
    return StoreUnavailableError(f"the Redis server refused a command: {error}")


class Pipeline:
    """Sends the commands of concurrent callers together: while one round trip is under way, the next one fills."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._waiting: list[tuple[tuple[Any, ...], asyncio.Future[Any]]] = []
        self._flusher: asyncio.Task[None] | None = None

    async def execute(self, *command: Any) -> Any:
        """Return the reply of one command.

        Raises:
            StoreUnavailableError: the server refused this command.
            UnknownScriptError: EVALSHA named a script that the server does not have; nothing was run.
            ConnectionLostError: the command may or may not have run.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, future))
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())
        return await future

    async def _flush(self) -> None:
        # One turn of the loop lets every caller that is ready now join the first round trip.
        await asyncio.sleep(0)
        try:
            while self._waiting:
                sent, self._waiting = self._waiting[:MAX_PIPELINE], self._waiting[MAX_PIPELINE:]
                await self._send([entry for entry in sent if not entry[1].done()])
        finally:
            self._flusher = None
            for _, future in self._waiting:
                future.cancel()
            self._waiting.clear()

    async def _send(self, entries: list[tuple[tuple[Any, ...], asyncio.Future[Any]]]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for command, _ in entries:
            pipeline.execute_command(*command)
        try:
            replies = await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError) as error:
            for _, future in entries:
                if not future.done():
                    future.set_exception(ConnectionLostError(f"{type(error).__name__}: {error}"))
            return
        except asyncio.CancelledError:
            for _, future in entries:
                future.cancel()
            raise
        for (_, future), reply in zip(entries, replies, strict=True):
            if future.done():
                continue
            if isinstance(reply, Exception):
                future.set_exception(_refusal(reply))
            else:
                future.set_result(reply)

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Return the reply of a script, which is sent whole only when the server does not have it.

        Raises:
            StoreUnavailableError, ConnectionLostError: see :meth:`execute`.
        """
        try:
            return await self.execute("EVALSHA", script.sha, len(keys), *keys, *args)
        except UnknownScriptError:
            return await self.execute("EVAL", script.text, len(keys), *keys, *args)

    async def close(self) -> None:
        """Cancel what waits and close the client. Idempotent."""
        if self._flusher is not None:
            self._flusher.cancel()
        await self._client.aclose()


async def read_streams(
    waiting: Redis, command: str, limit: int, wait_seconds: float, streams: Mapping[str, str], *prefix: str
) -> list[Any]:
    """Return the reply of XREAD or XREADGROUP on ``streams``; empty where nothing came within ``wait_seconds``."""
    wait_ms = int(min(wait_seconds, WAIT_SECONDS_MAX) * 1000)
    block = ("BLOCK", wait_ms) if wait_ms > 0 else ()
    try:
        arguments = (command, *prefix, "COUNT", limit, *block, "STREAMS", *streams, *streams.values())
        replies = await cast("Any", waiting).execute_command(*arguments)
    except CONNECTION_LOST as error:
        raise StoreUnavailableError(f"cannot read from the Redis server: {error}") from error
    return cast("list[Any]", replies or [])

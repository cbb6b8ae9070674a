"""Appends that write everything an append can write, as the server sees them: script, keys, arguments."""

import asyncio
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast

import redis
from msgspec import Struct
from redis.backoff import NoBackoff
from redis.retry import Retry

from eventstore.ids import partition_in
from eventstore.levels import MEMORY
from eventstore.redis.entries import append_arguments
from eventstore.redis.opening import StoreSettings
from eventstore.redis.store import RedisEventStore
from eventstore.store import DIRECT_MAX, Append, IdempotencyKey, IndexEntry
from tests.builders import events, stream_id

LATER_MS: Final = 4_000_000_000_000

# The local `redis` hides the server's: its calls count down, and the one after the last is not made.
_COUNTED: Final = """
local server, left = redis, {calls}
local function counted(call)
  return function(...)
    if left == 0 then error('stopped before ' .. (...)) end
    left = left - 1
    return call(...)
  end
end
local redis = setmetatable({{call = counted(server.call), pcall = counted(server.pcall)}}, {{__index = server}})
"""


class Server:
    """A synchronous connection that sends each command once, on which a script's effects are looked at key by key."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def command(self, *arguments: Any) -> Any:
        """Return the server's own reply to one command; refusals are raised as redis-py's errors."""
        return self._client.execute_command(*arguments)

    def run(self, text: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Return the reply of a script that is sent whole."""
        return self.command("EVAL", text, len(keys), *keys, *args)

    def keys(self, prefix: str) -> list[bytes]:
        """Return the keys that begin with ``prefix``, sorted."""
        return sorted(self.command("KEYS", f"{prefix}*"))

    def dump(self, prefix: str) -> dict[bytes, bytes]:
        """Return every key with its whole content, serialized; a stream's with its last id and its group."""
        return {key: self.command("DUMP", key) for key in self.keys(prefix)}

    def put_back(self, prefix: str, dumped: dict[bytes, bytes]) -> None:
        """Make the keys what they were when they were dumped."""
        for key in self.keys(prefix):
            self.command("DEL", key)
        for key, content in dumped.items():
            self.command("RESTORE", key, 0, content)

    def is_write(self, name: str) -> bool:
        """Whether the server itself calls this command a write."""
        ((_, _, flags, *_),) = self.command("COMMAND", "INFO", name)
        return b"write" in flags


@contextmanager
def connected(url: str, **options: str) -> Iterator[Server]:
    """A connection to the server at ``url``, with other credentials than the URL's if ``options`` say so."""
    client = redis.Redis.from_url(url, protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=10, **options)
    with client:
        client.response_callbacks.clear()
        yield Server(client)


class Scene(Struct, frozen=True):
    """A stream of two events with a task that a worker holds, a timer and a record; and the append that follows."""

    prefix: str
    stream: str
    commit: Append
    keys: list[str]
    args: list[Any]

    def key(self, name: str) -> str:
        """Return a key of the partition; ``stream`` is that of the append's stream."""
        return f"{self.prefix}:stream:{self.stream}" if name == "stream" else f"{self.prefix}:{name}"


def begun(url: str) -> Scene:
    """Write the history of a scene, in a namespace of its own, and return what to append to it."""
    return asyncio.run(_begin(url))


async def _begin(url: str) -> Scene:
    settings = StoreSettings(namespace=f"f{secrets.token_hex(5)}", level=MEMORY)
    store = await RedisEventStore.open(url, settings, new_store_id="first")
    stream = stream_id()
    number = partition_in(stream)
    try:
        await store.append(_first(stream))
        (task,) = await store.take_tasks("worker", 1)
    finally:
        await store.close()
    commit = Append(
        stream=stream,
        expected_version=2,
        expected_hash=events(2)[-1].hash,
        commit_id="second",
        events=events(2, prev=events(2)[-1].hash, first=3),
        add_task="resolve",
        finish_task=task,
        set_entries=(IndexEntry("due", f"resolve {stream}", LATER_MS), IndexEntry("open", stream, 1)),
        clear_entries=(("due", f"expire {stream}"), ("resting", stream)),
        idempotency=IdempotencyKey("client", "second", "f2"),
    )
    keys, args = append_arguments(settings.key_prefix(number), 1, "", commit)
    return Scene(settings.key_prefix(number), stream, commit, keys, args)


def queued(url: str, *, ahead: bool) -> Scene:
    """Write a history after which the task of the next stream waits: behind another one, or behind free ones alone."""
    scene = begun(url)
    with connected(url) as on:
        if ahead:
            on.command("ZADD", scene.key("waiting"), 7, f"attempt {scene.stream}")
            on.command("HSET", scene.key("lanes"), "admitted", 4, ":client", 7)
        for _ in range(0 if ahead else DIRECT_MAX):
            on.command("XADD", scene.key("tasks"), "*", "stream", scene.stream, "kind", "attempt")
    stream = stream_id()
    commit = Append(
        stream=stream,
        expected_version=0,
        expected_hash="",
        commit_id="queued",
        events=events(1),
        add_task="attempt",
        lane="client",
        queue_max=1000,
        set_entries=(IndexEntry("due", f"expire {stream}", LATER_MS),),
        idempotency=IdempotencyKey("client", "queued", "f3"),
    )
    keys, args = append_arguments(scene.prefix, 1, "", commit)
    return Scene(scene.prefix, stream, commit, keys, args)


def _first(stream: str) -> Append:
    return Append(
        stream=stream,
        expected_version=0,
        expected_hash="",
        commit_id="first",
        events=events(2),
        add_task="attempt",
        set_entries=(IndexEntry("due", f"expire {stream}", LATER_MS), IndexEntry("resting", stream, 7)),
        idempotency=IdempotencyKey("client", "first", "f1"),
    )


class Stop(Struct, frozen=True):
    """A script ended by an error before one of its calls."""

    command: str
    """The call that was not made."""
    changed: bool
    """Whether the calls before it left anything behind."""


def stops(server: Server, prefix: str, text: str, keys: Sequence[str], args: Sequence[Any]) -> list[Stop]:
    """End a script before its first call, its second one, and so on; each time from the same data."""
    before = server.dump(prefix)
    found: list[Stop] = []
    while True:
        try:
            server.run(_COUNTED.format(calls=len(found)) + text, keys, args)
        except redis.ResponseError as error:
            stopped = re.search(r"stopped before (\w+)", str(error))
            if stopped is None:
                raise
            found.append(Stop(cast("str", stopped[1]), server.dump(prefix) != before))
            server.put_back(prefix, before)
        else:
            server.put_back(prefix, before)
            return found

"""The append-only file, cut anywhere in the last append: after a restart all of it is there, or nothing."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventstore.redis.scripts import APPEND
from tests.crash.scenes import Scene, Server, begun, connected
from tests.servers.single import RedisServer, redis_server

pytestmark = pytest.mark.slow

Visible = dict[bytes, object]


def visible(on: Server, prefix: str) -> Visible:
    """Return what every key of the partition holds, and for tasks who holds them."""
    found: Visible = {}
    for key in on.keys(prefix):
        match on.command("TYPE", key):
            case b"hash":
                flat = on.command("HGETALL", key)
                found[key] = dict(zip(flat[::2], flat[1::2], strict=True))
            case b"zset":
                found[key] = on.command("ZRANGE", key, 0, -1, "WITHSCORES")
            case b"stream":
                facts = on.command("XINFO", "STREAM", key)
                last_id = facts[facts.index(b"last-generated-id") + 1]
                groups = on.command("XINFO", "GROUPS", key)
                held = [on.command("XPENDING", key, group[1], "-", "+", 99) for group in groups]
                # Not how long ago each was handed out.
                holders = [(entry[0], entry[1], entry[3]) for entries in held for entry in entries]
                found[key] = (on.command("XRANGE", key, "-", "+"), last_id, holders)
            case kind:
                raise ValueError(f"{key!r} is a {kind!r}")
    return found


def cuts(log: bytes) -> list[int]:
    """Return where the last transaction's elements end: its commands' headers and arguments, and one byte beside."""
    start = place = log.rindex(b"*1\r\n$5\r\nMULTI\r\n")
    found = {place}
    while place < len(log):
        header = re.compile(rb"\*(\d+)\r\n").match(log, place)
        if header is None:
            raise ValueError(f"no command at byte {place}")
        place = header.end()
        found.add(place)
        for _ in range(int(header[1])):
            length = re.compile(rb"\$(\d+)\r\n").match(log, place)
            if length is None:
                raise ValueError(f"no argument at byte {place}")
            place = length.end() + int(length[1]) + 2
            found.add(place)
    return sorted({cut + beside for cut in found for beside in (-1, 0, 1) if start <= cut + beside <= len(log)})


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server of the test's own, of either kind, that flushes each append."""
    program = shutil.which("redis-server") if request.param == "redis" else None
    if request.param == "redis" and program is None:
        pytest.skip("no redis-server on PATH")
    with redis_server(program=program, appendonly="yes", appendfsync="always") as running:
        yield running


def test_a_log_cut_in_its_last_append_holds_all_of_it_or_nothing(
    server: RedisServer, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene = begun(server.url)
    with connected(server.url) as on:
        before = visible(on, scene.prefix)
        assert on.run(APPEND.text, scene.keys, scene.args)[0] == b"Appended"
        after = visible(on, scene.prefix)
    server.kill()
    kept = tmp_path / "data"
    shutil.copytree(server.data_dir, kept)
    (path,) = kept.rglob("*.incr.aof")
    log = path.read_bytes()
    places = cuts(log)
    assert before != after and len(places) > 200
    for cut in places if request.node.callspec.params["server"] == "valkey" else places[::10]:
        path.write_bytes(log[:cut])
        assert restarted(server, kept, scene) == (after if cut == len(log) else before), f"cut at {cut} of {len(log)}"
    path.write_bytes(log)
    assert restarted(server, kept, scene) == after


def restarted(server: RedisServer, data: Path, scene: Scene) -> Visible:
    """Return what a server shows that starts on a copy of ``data``."""
    server.replace_data(data)
    with connected(server.url) as on:
        return visible(on, scene.prefix)

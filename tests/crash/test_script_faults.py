"""Scripts that are stopped half way, and servers that refuse one of their writes: nothing visible changes."""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import redis

from eventstore.redis.scripts import ADMIT, APPEND, FIRE, OPEN_EPOCH, PARK, RATE, REMOVE, RESTORE, RETRY, Script
from tests.crash.scenes import Scene, Server, begun, connected, queued, stops
from tests.servers.single import RedisServer, redis_server, wait_until

FIRST_EVENT = 17
"""Index of the first event's hash among the arguments of the append."""
FIRST_SCORE = FIRST_EVENT + 4 + 1
READS = ["type", "hmget", "info", "xrevrange", "hget", "time", "exists", "xinfo"]
WRITES = ["xadd", "hset", "xack", "xdel", "zadd", "zrem", "publish"]
ADMISSIONS = ["xadd", "zrem", "hset", "hdel", "del"]


@pytest.fixture(scope="module", params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server of this module's own, of either kind; without a disk to wait for."""
    program = shutil.which("redis-server") if request.param == "redis" else None
    if request.param == "redis" and program is None:
        pytest.skip("no redis-server on PATH")
    with redis_server(program=program, appendonly="no") as running:
        yield running


def unchanged(on: Server, scene: Scene, run: Callable[[], Any]) -> Any:
    """Return what ``run`` answers, or its refusal, and require that it changes no key."""
    before = on.dump(scene.prefix)
    try:
        answer = run()
    except redis.RedisError as refusal:
        answer = refusal
    assert on.dump(scene.prefix) == before
    return answer


def refused(on: Server, scene: Scene, reason: str, changes: dict[int, Any] | None = None) -> None:
    """Require that the append, with some arguments changed, is refused for ``reason`` and changes nothing."""
    args = [*scene.args]
    for index, value in (changes or {}).items():
        args[index] = value
    answer = unchanged(on, scene, lambda: on.run(APPEND.text, scene.keys, args))
    assert reason in f"{type(answer).__name__} {answer}"


def test_an_append_stopped_before_any_call_up_to_its_first_write_changes_nothing(server: RedisServer) -> None:
    scene = begun(server.url)
    with connected(server.url) as on:
        found = stops(on, scene.prefix, APPEND.text, scene.keys, scene.args)
        commands = [stop.command for stop in found]
        first = next(place for place, name in enumerate(commands) if on.is_write(name))
        assert [stop.changed for stop in found] == [False] * (first + 1) + [True] * (len(found) - first - 1)
        writes = ["XADD"] * 3 + ["HSET", "XACK", "XDEL", "XADD", "ZADD", "ZADD", "ZREM", "ZREM", "HSET"]
        assert commands[first:] == [*writes, "PUBLISH", "PUBLISH"]
        assert on.run(APPEND.text, scene.keys, scene.args)[0] == b"Appended"


@pytest.mark.parametrize("place", range(8))
def test_an_append_to_a_key_of_another_type_changes_nothing(server: RedisServer, place: int) -> None:
    scene = begun(server.url)
    with connected(server.url) as on:
        on.command("DEL", scene.keys[place])
        on.command("SET", scene.keys[place], "foreign")
        refused(on, scene, "WrongType")


@pytest.mark.parametrize("ahead", [True, False])
def test_an_append_that_waits_its_turn_changes_nothing_up_to_its_first_write(server: RedisServer, ahead: bool) -> None:
    scene = queued(server.url, ahead=ahead)
    with connected(server.url) as on:
        found = stops(on, scene.prefix, APPEND.text, scene.keys, scene.args)
        commands = [stop.command for stop in found]
        first = next(place for place, name in enumerate(commands) if on.is_write(name))
        assert not any(stop.changed for stop in found[: first + 1])
        forgotten = [] if ahead else ["DEL"]
        turn = ["XADD", "XADD", "HSET", *forgotten, "ZADD", "HSET"]
        assert commands[first:] == [*turn, "ZADD", "HSET", "PUBLISH"]
        assert on.run(APPEND.text, scene.keys, scene.args)[0] == b"Appended"
        assert on.command("ZSCORE", scene.key("waiting"), f"attempt {scene.stream}") == (b"8" if ahead else b"1")


@pytest.mark.parametrize("place", [-2, -1])
def test_an_append_to_lanes_that_are_another_type_changes_nothing(server: RedisServer, place: int) -> None:
    scene = queued(server.url, ahead=True)
    with connected(server.url) as on:
        on.command("DEL", scene.keys[place])
        on.command("SET", scene.keys[place], "foreign")
        refused(on, scene, "WrongType")


@pytest.mark.parametrize("field", ["admitted", ":client"])
@pytest.mark.parametrize("turn", ["x", "", "nan", "inf", "1e300", "9007199254740991"])
def test_an_append_after_an_impossible_turn_changes_nothing(server: RedisServer, field: str, turn: str) -> None:
    scene = queued(server.url, ahead=True)
    with connected(server.url) as on:
        on.command("HSET", scene.key("lanes"), field, turn)
        refused(on, scene, "damaged")


@pytest.mark.parametrize("changes,reason", [({14: "1"}, "QueueFull"), ({14: "x"}, ""), ({16: "x"}, "")])
def test_an_append_that_does_not_fit_its_queue_changes_nothing(
    server: RedisServer, changes: dict[int, Any], reason: str
) -> None:
    with connected(server.url) as on:
        refused(on, queued(server.url, ahead=False), reason, changes)


@pytest.mark.parametrize("command", ["xpending", "xlen", "zcard", "hmget", "zadd", "hset", "del"])
def test_an_append_that_waits_its_turn_needs_all_its_commands(server: RedisServer, command: str) -> None:
    appended_by(server, "+@all", f"-{command}", "~*", "&*", scene=queued(server.url, ahead=command == "hmget"))


@pytest.mark.parametrize("command,elsewhere", [("zadd", ["due"]), ("hset", ["meta", "idempotency"])])
def test_an_append_needs_its_commands_on_its_lanes_too(server: RedisServer, command: str, elsewhere: list[str]) -> None:
    selector = f"(+{command} {' '.join(f'~*:{name}' for name in elsewhere)})"
    rules = ("+@all", f"-{command}", "~*", "&*", selector)
    appended_by(server, *rules, scene=queued(server.url, ahead=True))


@pytest.mark.parametrize("index", [0, 2, 11])
def test_an_append_that_is_not_due_changes_nothing(server: RedisServer, index: int) -> None:
    scene = begun(server.url)
    with connected(server.url) as on:
        refused(on, scene, "EpochStale" if index != 2 else "WrongVersion", {index: "7"})


@pytest.mark.parametrize("score", ["", "x", "nan", "inf", "1e999", " 1", "0x", "1" + "0" * 400, "1.5"])
def test_an_append_with_a_score_that_is_none_changes_nothing(server: RedisServer, score: str) -> None:
    scene = begun(server.url)
    with connected(server.url) as on:
        refused(on, scene, "score is not", {FIRST_SCORE: score})


@pytest.mark.parametrize("task", ["x", "-", "1-x", "1-2-3", "9" * 20 + "-0", "0-" + "9" * 20])
def test_an_append_that_finishes_a_task_with_an_impossible_id_changes_nothing(server: RedisServer, task: str) -> None:
    scene = begun(server.url)
    with connected(server.url) as on:
        refused(on, scene, "id of the task", {6: task})


@pytest.mark.parametrize("position", ["x", "nan", "1e300", "-1", "9007199254740993", ""])
def test_an_append_after_an_impossible_position_changes_nothing(server: RedisServer, position: str) -> None:
    scene = begun(server.url)
    with connected(server.url) as on:
        on.command("HSET", scene.key("meta"), "position", position)
        refused(on, scene, "")


@pytest.mark.parametrize("index,value", [(1, "x"), (1, "1e300"), (9, "x"), (9, "1e300"), (10, "x"), (10, "9")])
def test_an_append_with_impossible_numbers_changes_nothing(server: RedisServer, index: int, value: str) -> None:
    scene = begun(server.url)
    with connected(server.url) as on:
        refused(on, scene, "", {index: value})


@pytest.mark.parametrize("name,last", [("log", "1-9"), ("log", "2-1"), ("stream", "1-9"), ("stream", "2-1")])
def test_an_append_whose_numbers_were_given_out_before_changes_nothing(
    server: RedisServer, name: str, last: str
) -> None:
    scene = begun(server.url)
    with connected(server.url) as on:
        on.command("XADD", scene.key(name), last, "deleted", "entry")
        on.command("XDEL", scene.key(name), last)
        refused(on, scene, "equal or smaller" if name == "log" else "StreamMismatch")


def test_an_append_to_a_stream_whose_events_were_all_deleted_changes_nothing(server: RedisServer) -> None:
    scene = begun(server.url)
    with connected(server.url) as on:
        on.command("XTRIM", scene.key("stream"), "MAXLEN", 0)
        refused(on, scene, "StreamMismatch", {1: "0", 2: "", 12: "4000000000000"})


@pytest.mark.parametrize("setting,reason", [("maxmemory", "OutOfMemoryError"), ("min-replicas-to-write", "NOREPLICAS")])
def test_an_append_to_a_server_that_takes_no_writes_changes_nothing(
    server: RedisServer, setting: str, reason: str
) -> None:
    scene = begun(server.url)
    server.command("CONFIG", "SET", setting, "1")
    try:
        with connected(server.url) as on:
            refused(on, scene, reason)
    finally:
        server.command("CONFIG", "SET", setting, "0")


def test_an_append_to_a_replica_changes_nothing(server: RedisServer) -> None:
    scene = begun(server.url)
    server.command("REPLICAOF", "127.0.0.1", "1")
    try:
        with connected(server.url) as on:
            refused(on, scene, "ReadOnlyError")
    finally:
        server.command("REPLICAOF", "NO", "ONE")


def test_an_append_to_a_server_that_cannot_save_changes_nothing(server: RedisServer) -> None:
    scene = begun(server.url)
    blocked = server.data_dir / "dump.rdb"
    blocked.mkdir()
    server.command("CONFIG", "SET", "save", "3600 1")
    try:
        server.command("BGSAVE")
        wait_until(lambda: server.command("INFO", "persistence")["rdb_last_bgsave_status"] == "err", 10)
        with connected(server.url) as on:
            refused(on, scene, "MISCONF")
    finally:
        server.command("CONFIG", "SET", "save", "")
        blocked.rmdir()


def test_an_append_script_that_the_server_does_not_have_changes_nothing(server: RedisServer) -> None:
    scene = begun(server.url)
    other = hashlib.sha1(scene.prefix.encode(), usedforsecurity=False).hexdigest()
    with connected(server.url) as on:
        answer = unchanged(on, scene, lambda: on.command("EVALSHA", other, len(scene.keys), *scene.keys, *scene.args))
    assert isinstance(answer, redis.exceptions.NoScriptError)


def appended_by(server: RedisServer, *rules: str, scene: Scene | None = None) -> None:
    """Require that a user with ``rules`` is refused the append and changes nothing."""
    scene = scene or begun(server.url)
    run_by(server, scene, (APPEND, scene.keys, scene.args), *rules)


def run_by(server: RedisServer, scene: Scene, made: "Made", *rules: str) -> None:
    """Require that a user with ``rules`` is refused a script and changes nothing."""
    script, keys, args = made
    server.command("ACL", "SETUSER", "limited", "reset", "on", ">secret", *rules)
    with connected(server.url) as on, connected(server.url, username="limited", password="secret") as limited:
        answer = unchanged(on, scene, lambda: limited.run(script.text, keys, args))
    assert isinstance(answer, redis.ResponseError)


@pytest.mark.parametrize("command", [*READS, *WRITES])
def test_an_append_by_a_user_without_one_of_its_commands_changes_nothing(server: RedisServer, command: str) -> None:
    appended_by(server, "+@all", f"-{command}", "~*", "&*")


@pytest.mark.parametrize("name", ["meta", "stream", "log", "tasks", "idempotency", "due", "open", "resting"])
def test_an_append_by_a_user_without_write_access_to_one_of_its_keys_changes_nothing(
    server: RedisServer, name: str
) -> None:
    # EVAL asks for access to its keys before it runs; a key that may be read only is refused at its write.
    names = {"meta", "stream:*", "log", "tasks", "idempotency", "due", "open", "resting"}
    kept = sorted(names - {name, f"{name}:*"})
    appended_by(server, "+@all", "&*", "%R~*", *(f"~*:{other}" for other in kept))


def test_an_append_by_a_user_without_its_channel_changes_nothing(server: RedisServer) -> None:
    appended_by(server, "+@all", "~*", "resetchannels")


Made = tuple[Script, Sequence[str], Sequence[Any]]


def restored(scene: Scene) -> Made:
    events = scene.args[FIRST_EVENT : FIRST_EVENT + 4]
    args = ["another", scene.args[2], "1-4", scene.stream, 4, "second", 1, "aaaaaaaabbbbbbbb", 2, 2]
    args += ["resolve", "field", "record", 2, b"\n".join(events[1::2])]
    for number in range(2):
        args += [f"1-{3 + number}", "second", events[2 * number], 3 + number, events[2 * number + 1]]
    return RESTORE, scene.keys, [*args, *scene.args[FIRST_EVENT + 4 :]]


def removed(scene: Scene) -> Made:
    keys = [scene.key("stream"), scene.key("idempotency"), scene.key("resting")]
    return REMOVE, keys, [scene.stream, 2, scene.args[2], "client\0first"]


def opened(scene: Scene) -> Made:
    return OPEN_EPOCH, [scene.key(name) for name in ("meta", "log", "tasks")], ["first", 4, 2, "1-2", 2, "a", "a"]


def parked(scene: Scene) -> Made:
    record = '{"error":"e","kind":"attempt","skipped_reason":null}'
    return PARK, [scene.key("tasks"), scene.key("parked")], [scene.args[6], scene.stream, record]


def retried(scene: Scene) -> Made:
    return RETRY, [scene.key("tasks"), scene.key("parked")], [scene.stream]


def fired(scene: Scene) -> Made:
    return FIRE, [scene.key(name) for name in ("due", "tasks", "waiting", "lanes")], [10, 64]


def admitted(scene: Scene) -> Made:
    return ADMIT, [scene.key(name) for name in ("tasks", "waiting", "lanes")], [64]


def rated(scene: Scene) -> Made:
    return RATE, [scene.key("rate:client")], [1_000, 10_000]


MAKERS = [restored, removed, opened, parked, retried, fired, admitted]


def prepared(on: Server, scene: Scene) -> None:
    """Add what the other scripts work on: a parked task, a timer that is due and a task that waits."""
    on.command("ZADD", scene.key("waiting"), 7, f"attempt {scene.stream}")
    on.command("HSET", scene.key("lanes"), ":client", 7)
    on.command("HSET", scene.key("parked"), scene.stream, '{"kind":"attempt"}')
    on.command("ZADD", scene.key("due"), 1, f"resolve {scene.stream}")


@pytest.mark.parametrize("make", [*MAKERS, rated])
def test_a_script_stopped_before_any_call_up_to_its_first_write_changes_nothing(
    server: RedisServer, make: Callable[[Scene], Made]
) -> None:
    scene = begun(server.url)
    script, keys, args = make(scene)
    with connected(server.url) as on:
        prepared(on, scene)
        found = stops(on, scene.prefix, script.text, keys, args)
        writes = [on.is_write(stop.command) for stop in found]
        assert any(writes)
        assert not any(stop.changed for stop in found[: writes.index(True) + 1])


@pytest.mark.parametrize("place", range(8))
@pytest.mark.parametrize("make", MAKERS)
def test_a_script_that_meets_a_key_of_another_type_changes_nothing(
    server: RedisServer, make: Callable[[Scene], Made], place: int
) -> None:
    scene = begun(server.url)
    script, keys, args = make(scene)
    if place >= len(keys):
        return
    with connected(server.url) as on:
        prepared(on, scene)
        on.command("DEL", keys[place])
        on.command("SET", keys[place], "foreign")
        answer = unchanged(on, scene, lambda: on.run(script.text, keys, args))
    assert "WRONGTYPE" in str(answer) or "WrongType" in str(answer)


@pytest.mark.parametrize("command", ADMISSIONS)
def test_an_admission_by_a_user_without_one_of_its_commands_changes_nothing(server: RedisServer, command: str) -> None:
    scene = begun(server.url)
    with connected(server.url) as on:
        prepared(on, scene)
    run_by(server, scene, admitted(scene), "+@all", f"-{command}", "~*", "&*")


@pytest.mark.parametrize("make", [fired, admitted])
def test_a_waiting_task_that_is_admitted_leaves_its_lane(server: RedisServer, make: Callable[[Scene], Made]) -> None:
    scene = begun(server.url)
    script, keys, args = make(scene)
    with connected(server.url) as on:
        prepared(on, scene)
        on.command("DEL", scene.key("due"))
        on.command("ZADD", scene.key("waiting"), 6, "nobody's")
        on.run(script.text, keys, args)
        ((_, fields),) = on.command("XREVRANGE", scene.key("tasks"), "+", "-", "COUNT", 1)
        assert fields == [b"stream", scene.stream.encode(), b"kind", b"attempt"]
        assert on.command("XLEN", scene.key("tasks")) == 2
        assert on.command("EXISTS", scene.key("waiting"), scene.key("lanes")) == 0


def test_lanes_whose_last_turn_has_come_are_forgotten_in_time(server: RedisServer) -> None:
    scene = begun(server.url)
    script, keys, _ = admitted(scene)
    with connected(server.url) as on:
        for turn in range(1, 4):
            on.command("ZADD", scene.key("waiting"), turn, f"attempt {turn}")
        for number in range(1100):
            on.command("HSET", scene.key("lanes"), f":{number}", 2 + number % 2)
        on.run(script.text, keys, [2])
        assert on.command("HGET", scene.key("lanes"), "admitted") == b"2"
        assert on.command("ZCARD", scene.key("waiting")) == 1
        assert on.command("HLEN", scene.key("lanes")) == 1 + 550

"""The safeguards of the event store: where each one is, how it is taken out, and the test that then fails."""

from typing import Final

from msgspec import Struct

_APPEND: Final = "eventstore/redis/lua/append.lua"
_CONFIRM: Final = "eventstore/redis/lua/confirm.lua"
_ADMISSION: Final = "eventstore/redis/lua/admission.lua"
_LANES: Final = "tests/contract/test_lanes.py::test_"
_RESTORE: Final = "eventstore/redis/lua/restore.lua"
_REMOVE: Final = "eventstore/redis/lua/remove.lua"
_MARK: Final = "eventstore/redis/lua/mark.lua"
_LOG: Final = "eventstore/redis/log.py"
_SENDER: Final = "eventstore/redis/wire/sender.py"
_HERE: Final = "tests/crash/test_safeguards.py::test_"
_FAULTED: Final = "tests/crash/test_script_faults.py::test_"
_FAULTS: Final = f"{_FAULTED}an_append_"
_EXCHANGE: Final = """\
            replies = await self.line.exchange([*commands, *waits], len(entries) + len(waits), seconds)
            return replies[: len(entries)], replies[len(entries) :]
"""


class Safeguard(Struct, frozen=True):
    """A piece of source without which a promise is broken."""

    name: str
    file: str
    text: str
    """Stands in the file exactly once."""
    without: str
    """What takes its place."""
    check: str
    """Id of a test that fails then."""


SAFEGUARDS: Final = [
    Safeguard(
        "version check",
        _APPEND,
        "if version ~= expected or hash ~= ARGV[3] then",
        "if hash ~= ARGV[3] then",
        f"{_HERE}an_append_at_another_version_or_head_is_refused",
    ),
    Safeguard(
        "head hash check",
        _APPEND,
        "if version ~= expected or hash ~= ARGV[3] then",
        "if version ~= expected then",
        f"{_HERE}an_append_at_another_version_or_head_is_refused",
    ),
    Safeguard(
        "epoch check",
        _APPEND,
        "if kept[1] ~= ARGV[1] or not kept[2] or",
        "if not kept[2] or",
        f"{_HERE}an_append_of_another_epoch_is_refused",
    ),
    Safeguard(
        "incarnation check",
        _APPEND,
        " or kept[3] ~= incarnation(ARGV[12]) then",
        " then",
        f"{_HERE}an_append_to_a_server_with_other_data_is_refused",
    ),
    Safeguard(
        "touch of Duplicate",
        _APPEND,
        "redis.call('HINCRBY', meta, 'touches', 1)\n    local at_epoch",
        "local at_epoch",
        f"{_HERE}every_answer_about_an_earlier_write_is_a_write",
    ),
    Safeguard(
        "touch of Existing",
        _APPEND,
        "redis.call('HINCRBY', meta, 'touches', 1)\n    return {'Existing'",
        "return {'Existing'",
        f"{_HERE}every_answer_about_an_earlier_write_is_a_write",
    ),
    Safeguard(
        "touch of confirm",
        _CONFIRM,
        "redis.call('HINCRBY', KEYS[1], 'touches', 1)\n",
        "",
        f"{_HERE}every_answer_about_an_earlier_write_is_a_write",
    ),
    Safeguard(
        "age check of new streams",
        _APPEND,
        "> tonumber(ARGV[14]) then return {'Expired'} end",
        "> tonumber(ARGV[14]) then local _ end",
        f"{_HERE}a_stream_whose_id_is_old_is_not_begun",
    ),
    Safeguard(
        "task acknowledgement in the append",
        _APPEND,
        "  redis.call('XACK', tasks, 'workers', ARGV[7])\n  redis.call('XDEL', tasks, ARGV[7])\n",
        "",
        f"{_HERE}a_task_ends_with_the_append_that_finishes_it",
    ),
    Safeguard(
        "numbers given out once",
        _APPEND,
        "return {'StreamMismatch', facts[i + 1]}",
        "break",
        f"{_FAULTS}to_a_stream_whose_events_were_all_deleted_changes_nothing",
    ),
    Safeguard(
        "permissions before the first write",
        _APPEND,
        "if not permitted then",
        "if false then",
        f"{_FAULTS}by_a_user_without_its_channel_changes_nothing",
    ),
    Safeguard(
        "limit of unfinished tasks",
        _APPEND,
        "if depth >= tonumber(ARGV[15]) then return {'QueueFull', depth} end",
        "",
        f"{_LANES}a_new_stream_is_refused_while_too_many_tasks_are_unfinished[redis_url]",
    ),
    Safeguard(
        "waiting tasks in the limit",
        _APPEND,
        "redis.call('XLEN', tasks) + ahead",
        "redis.call('XLEN', tasks)",
        f"{_LANES}waiting_tasks_are_unfinished_ones[redis_url]",
    ),
    Safeguard(
        "turns of lanes",
        _APPEND,
        "    turn = string.format('%.0f', math.max(admitted, last) + 1)",
        "    turn = string.format('%.0f', ahead + 1)",
        f"{_LANES}one_lanes_flood_delays_another_lanes_task_by_little[redis_url]",
    ),
    Safeguard(
        "no overtaking of those that wait",
        _APPEND,
        "and (ahead > 0 or unheld",
        "and (unheld",
        f"{_LANES}whoever_comes_after_one_that_waits_waits_too_although_there_is_room[redis_url]",
    ),
    Safeguard(
        "turn that was admitted last",
        _ADMISSION,
        "redis.call('HSET', lanes, 'admitted', admitted)",
        "",
        f"{_LANES}a_lane_that_begins_waits_behind_what_was_admitted_not_behind_what_waits[redis_url]",
    ),
    Safeguard(
        "forgotten turns of an empty queue",
        _APPEND,
        "if ahead == 0 then redis.call('DEL', lanes) end",
        "",
        f"{_LANES}turns_of_a_queue_that_became_empty_are_forgotten[redis_url-True]",
    ),
    Safeguard(
        "forgotten lanes of an empty queue",
        _ADMISSION,
        "    redis.call('DEL', lanes)\n",
        "",
        f"{_FAULTED}a_waiting_task_that_is_admitted_leaves_its_lane",
    ),
    Safeguard(
        "forgotten lanes of a long queue",
        _ADMISSION,
        "if recorded > 2 * left + 1000 then",
        "if false then",
        f"{_FAULTED}lanes_whose_last_turn_has_come_are_forgotten_in_time",
    ),
    Safeguard(
        "permissions before the first write of an admission",
        _ADMISSION,
        "and may('ZREM', waiting, 'm')",
        "",
        f"{_FAULTED}an_admission_by_a_user_without_one_of_its_commands_changes_nothing",
    ),
    Safeguard(
        "admission by those who take tasks",
        "eventstore/redis/tasks.py",
        "for number in {task.partition for task in tasks}",
        "for number in ()",
        f"{_LANES}one_lanes_flood_delays_another_lanes_task_by_little[redis_url]",
    ),
    Safeguard(
        "admission by timers",
        "eventstore/redis/lua/fire.lua",
        "admit(KEYS[2], KEYS[3], KEYS[4], tonumber(ARGV[2]))",
        "",
        f"{_LANES}timers_that_fire_let_waiting_tasks_go_that_nobody_let_go[redis_url]",
    ),
    Safeguard(
        "tasks that reach their worker whatever comes of admission",
        "eventstore/redis/tasks.py",
        "with suppress(StoreUnavailableError):",
        "with suppress(ValueError):",
        "tests/integration/test_lane_keys.py::test_tasks_that_were_given_reach_a_worker_who_may_not_admit",
    ),
    Safeguard(
        "marks that never go back",
        _MARK,
        "redis.call('ZADD', KEYS[2], 'GT', ARGV[4], ARGV[3])",
        "redis.call('ZADD', KEYS[2], ARGV[4], ARGV[3])",
        "tests/contract/test_indexes.py::test_a_mark_never_goes_back[redis_url]",
    ),
    Safeguard(
        "marks that stand while a partition is closed",
        _MARK,
        "if kept[1] ~= ARGV[1] or kept[2] ~= incarnation(ARGV[2]) then",
        "if false then",
        "tests/contract/test_keeping.py::test_no_mark_moves_in_a_closed_partition[redis_url]",
    ),
    Safeguard(
        "refusal of a rate",
        "eventstore/redis/lua/rate.lua",
        "if missing > 0 then",
        "if false then",
        "tests/property/test_rates.py::test_the_script_does_what_the_function_does",
    ),
    Safeguard(
        "dense assertion of readers",
        _LOG,
        "            await self._require_dense(after[number], read)\n",
        "",
        f"{_HERE}a_hole_in_the_log_stops_its_reader",
    ),
    Safeguard(
        "anchor check of readers",
        _LOG,
        "        if anchor != cursor.anchor:\n",
        "        if False:\n",
        f"{_HERE}a_reader_that_saw_another_event_at_its_place_is_told",
    ),
    Safeguard(
        "WAIT on the connection of the write, after it",
        _SENDER,
        _EXCHANGE,
        """            said = await self.line.exchange(waits, len(waits), seconds) if waits else []
            return await self.line.exchange(commands, len(commands), seconds), said
""",
        f"{_HERE}an_append_that_no_replica_has_is_not_called_replicated",
    ),
    Safeguard(
        "comparison of the level reached",
        "eventstore/redis/store.py",
        "        if reached < level:\n            raise LevelNotReachedError(commit.commit_id, level, reached)\n",
        "",
        f"{_HERE}an_append_that_no_replica_has_is_not_called_replicated",
    ),
    Safeguard(
        "seam of the log in restore",
        _RESTORE,
        "then return {'Seam', 'log', head[1][1]} end",
        "then local _ end",
        f"{_HERE}nothing_is_restored_where_it_does_not_continue",
    ),
    Safeguard(
        "seam of the stream in restore",
        _RESTORE,
        "if second(ARGV[first_event]) ~= version + 1 or ARGV[2] ~= hash then",
        "if false then",
        f"{_HERE}nothing_is_restored_where_it_does_not_continue",
    ),
    Safeguard(
        "closed partition in restore",
        _RESTORE,
        "if kept[1] and kept[2] == incarnation(ARGV[1]) then return {'Open'} end",
        "",
        f"{_HERE}nothing_is_restored_into_an_open_partition",
    ),
    Safeguard(
        "head check of remove",
        _REMOVE,
        "~= ARGV[2] or head[1][2][4] ~= ARGV[3] then return 0 end",
        "~= ARGV[2] or head[1][2][4] ~= ARGV[3] then local _ end",
        f"{_HERE}a_stream_that_is_not_what_the_archive_has_is_not_removed",
    ),
    Safeguard(
        "hashes of the archive before healing",
        "projections/archive/healing.py",
        "        if fault is not None:\n",
        "        if False:\n",
        "tests/integration/test_healing.py::test_a_damaged_archive_restores_nothing",
    ),
]

"""The safeguards of projector and rebuild: where each one is, how it is taken out, and the test that then fails."""

from typing import Final

from tests.crash.safeguards import Safeguard

_RUNNER: Final = "projections/projector/runner.py"
_FOLD: Final = "projections/fold/orders.py"
_BUILDING: Final = "projections/rebuild/building.py"
_GATE: Final = "projections/rebuild/gate.py"
_SWAPPING: Final = "projections/rebuild/swapping.py"
_REBUILDING: Final = "projections/rebuild/rebuilding.py"
_TESTS: Final = "tests/integration/"
_REBUILD: Final = f"{_TESTS}test_rebuild.py::test_"
_BATCHES: Final = f"{_TESTS}test_batches.py::test_"
_SWAPS: Final = f"{_TESTS}test_swaps.py::test_"
_QUARANTINE: Final = f"{_TESTS}test_quarantine.py::test_"

PROJECTION: Final = [
    Safeguard(
        "lease fence of a batch",
        _RUNNER,
        "if lost := await self._leases.lost(connection, batch.ends):",
        "if lost := list[int]():",
        f"{_BATCHES}a_lease_is_looked_at_once_the_checkpoint_is_locked_and_can_be_taken_until_then",
    ),
    Safeguard(
        "lease that is looked at under the checkpoint's lock",
        _RUNNER,
        "            moving = await lock_all(connection, batch.ends)\n",
        "            await self._leases.lost(connection, batch.ends)\n"
        "            moving = await lock_all(connection, batch.ends)\n",
        f"{_BATCHES}a_lease_is_looked_at_once_the_checkpoint_is_locked_and_can_be_taken_until_then",
    ),
    Safeguard(
        "order of locks",
        "projections/checkpoints.py",
        "query.order_by(_table.c.partition, _table.c.projection).with_for_update()",
        "query.with_for_update()",
        f"{_BATCHES}checkpoints_are_locked_in_the_order_of_their_partitions",
    ),
    Safeguard(
        "bound of a batch that stands still",
        "projections/projector/writing.py",
        "            await bound_statements(connection)\n",
        "",
        f"{_BATCHES}a_batch_that_stands_still_would_be_ended_by_the_server",
    ),
    Safeguard(
        "checkpoint compare of a batch",
        _RUNNER,
        'if any(each != "ok" for each in standing.values()):',
        "if False:",
        f"{_TESTS}test_leases.py::test_what_another_has_projected_meanwhile_is_not_projected_again_by_an_owner",
    ),
    Safeguard(
        "epoch fence of a batch",
        _RUNNER,
        "epoch < later and position > end",
        "epoch < later and position > end and False",
        f"{_TESTS}test_epochs.py::test_what_was_read_from_a_lost_server_is_not_projected",
    ),
    Safeguard(
        "density of a batch",
        "projections/projector/batches.py",
        "if first != last.position + 1:",
        "if False:",
        f"{_TESTS}test_projector.py::test_a_hole_in_the_log_stops_the_projector_before_it",
    ),
    Safeguard(
        "anchor of the checkpoint",
        "projections/checkpoints.py",
        "return Cursor(self.epoch, self.position, self.anchor)",
        "return Cursor(self.epoch, self.position)",
        f"{_TESTS}test_projector.py::test_a_log_with_another_event_at_the_checkpoint_is_refused",
    ),
    Safeguard(
        "conflict in the archive, which is no fault of an event",
        "projections/projector/refusals.py",
        "if isinstance(cause, errors.UniqueViolation) and cause.diag.table_name == _ARCHIVE:",
        "if False:",
        f"{_BATCHES}an_event_whose_place_in_the_archive_is_taken_is_a_conflict_and_no_fault_of_its_order[position]",
    ),
    Safeguard(
        "row version",
        _FOLD,
        "if frame.seq != row.version + 1:",
        "if False:",
        f"{_QUARANTINE}a_row_that_is_not_where_its_stream_was_is_not_written_over[version = 3]",
    ),
    Safeguard(
        "hash that an event continues",
        _FOLD,
        "return prev == head_hash or (len(head_hash)",
        "return True or (len(head_hash)",
        f"{_QUARANTINE}an_event_that_continues_another_history_is_not_applied",
    ),
    Safeguard(
        "orders that stand still",
        "projections/projector/writing.py",
        'is_held = order_id in held if row is None else row.quality == "quarantined"',
        "is_held = False",
        f"{_QUARANTINE}later_events_of_a_quarantined_order_wait_behind_it",
    ),
    Safeguard(
        "density of the archive before a rebuild",
        _BUILDING,
        "if counted.get(number, 0) < position:",
        "if False:",
        f"{_REBUILD}an_archive_with_a_hole_is_not_rebuilt_from",
    ),
    Safeguard(
        "skipped events in a rebuild",
        _BUILDING,
        "return Bounds(upto=upto, skips=skips, held=held,",
        "return Bounds(upto=upto, skips={}, held=held,",
        f"{_REBUILD}an_interrupted_rebuild_begins_anew_once_an_event_was_skipped_and_else_goes_on",
    ),
    Safeguard(
        "lock of the snapshot to compare in",
        _GATE,
        "live = (await lock_projections(holding, [name]))[name]",
        "live = await read_checkpoints(holding, name)",
        f"{_SWAPS}nothing_is_projected_while_the_snapshot_to_compare_in_is_taken",
    ),
    Safeguard(
        "one identical position",
        _GATE,
        "if found != rebuilt:",
        "if False:",
        f"{_SWAPS}tables_at_different_positions_are_not_compared_and_not_swapped[orders]",
    ),
    Safeguard(
        "gate before a swap",
        _REBUILDING,
        "    if compared is not None and undeclared:",
        "    if False:",
        f"{_REBUILD}rows_that_differ_from_the_live_ones_are_not_swapped_in_unless_that_is_declared",
    ),
    Safeguard(
        "gate under the locks of a swap",
        _SWAPPING,
        "            if undeclared:\n",
        "            if False:\n",
        f"{_REBUILD}a_row_that_is_changed_after_the_comparison_is_compared_once_more",
    ),
    Safeguard(
        "locks of a swap",
        _SWAPPING,
        "ends = (await lock_projections(connection, [ORDERS.name, builder.projection.name]))[ORDERS.name]",
        "ends = await state.archived_ends(connection, await builder.ends(connection))",
        f"{_SWAPS}nothing_is_projected_while_tables_are_exchanged[volumes]",
    ),
    Safeguard(
        "events told that a rebuild mends",
        _SWAPPING,
        "    if mended:\n",
        "    if False:\n",
        f"{_SWAPS}what_a_rebuild_mends_is_told_to_the_other_projections",
    ),
    Safeguard(
        "events told once",
        _SWAPPING,
        "        await inherit_told(connection, live, following, list(OTHERS))\n",
        "",
        f"{_SWAPS}what_the_other_projections_know_already_is_not_told_again_when_it_is_applied_anew",
    ),
    Safeguard(
        "one rebuild at a time",
        "projections/rebuild/state.py",
        "if not await connection.scalar(select(func.pg_try_advisory_lock(REBUILD_LOCK))):",
        "if False:",
        f"{_REBUILD}two_rebuilds_at_once_are_refused",
    ),
    Safeguard(
        "right to rebuild before a page",
        _BUILDING,
        "                        await self.alone.require()\n",
        "",
        f"{_TESTS}test_lost_rebuilds.py::test_no_page_is_filled_by_a_rebuild_that_does_not_keep_others_out_any_more",
    ),
    Safeguard(
        "right to rebuild before a swap",
        _SWAPPING,
        "                await alone.require()\n",
        "",
        f"{_TESTS}test_lost_rebuilds.py::test_no_table_is_swapped_by_a_rebuild_that_does_not_keep_others_out_any_more",
    ),
    Safeguard(
        "schema that a later release migrated during a rebuild",
        _SWAPPING,
        "                await require_own_version(connection)\n",
        "",
        "tests/migration/test_migrated_meanwhile.py::"
        "test_a_migration_that_heeds_no_lock_and_ends_during_the_swap_undoes_it",
    ),
    Safeguard(
        "mending while a rebuild runs",
        "projections/rebuild/state.py",
        "if not await connection.scalar(select(func.pg_try_advisory_xact_lock_shared(REBUILD_LOCK))):",
        "if False:",
        f"{_REBUILD}no_row_is_mended_while_a_rebuild_runs",
    ),
    Safeguard(
        "code that a rebuild is gone on with by",
        _BUILDING,
        "if found is not None and (found.code, found.source) == (code, source):",
        "if found is not None:",
        f"{_REBUILD}an_interrupted_rebuild_begins_anew_once_an_event_was_skipped_and_else_goes_on",
    ),
    Safeguard(
        "events that a completed archive would lose",
        "projections/rebuild/completing.py",
        "    if found:\n",
        "    if False:\n",
        f"{_TESTS}test_completing_swaps.py::test_a_swap_that_would_lose_an_event_is_refused",
    ),
]
"""In the order in which an event, then a rebuild, meets them."""

"""The laws of how a locked checkpoint relates to a batch: only the one that the batch continues lets it be written."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from projections.checkpoints import Checkpoint
from projections.projector.batches import compare

POSITIONS = st.integers(0, 6)
CHECKPOINTS = st.builds(Checkpoint, st.just(0), st.integers(1, 3), POSITIONS, st.sampled_from(["aaaaaaaa", "bbbbbbbb"]))
BATCHES = st.tuples(CHECKPOINTS, CHECKPOINTS).filter(lambda ends: ends[0].position < ends[1].position)


@given(BATCHES, CHECKPOINTS)
def test_a_batch_may_be_written_at_the_checkpoint_that_it_continues_and_at_no_other(
    batch: tuple[Checkpoint, Checkpoint], found: Checkpoint
) -> None:
    assumed, end = batch
    assert (compare(assumed, end, found) == "ok") is (found == assumed)


@given(BATCHES)
def test_another_epoch_or_another_event_at_the_same_position_is_a_mismatch(
    batch: tuple[Checkpoint, Checkpoint],
) -> None:
    assumed, end = batch
    for found in (replace(assumed, anchor="cccccccc"), replace(assumed, epoch=assumed.epoch + 1)):
        assert compare(assumed, end, found) == "mismatch"
    for found in (replace(end, anchor="cccccccc"), replace(end, epoch=end.epoch + 1)):
        assert compare(assumed, end, found) == "mismatch"


@given(BATCHES, CHECKPOINTS)
def test_any_other_checkpoint_is_behind_within_or_beyond_the_batch(
    batch: tuple[Checkpoint, Checkpoint], found: Checkpoint
) -> None:
    assumed, end = batch
    laws = {
        "ok": found == assumed,
        "already": found == end or found.position > end.position,
        "ahead": assumed.position < found.position < end.position,
        "mismatch": found.position < assumed.position
        or (found.position == assumed.position and found != assumed)
        or (found.position == end.position and found != end),
    }
    assert [standing for standing, holds in laws.items() if holds] == [compare(assumed, end, found)]

"""Acknowledgement levels: their order, their names, and what a server's way of flushing makes of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore.errors import BadLevelError, LevelUnavailableError
from eventstore.levels import FSYNC, MEMORY, WITNESSED, Level, replicated
from eventstore.redis.opening import Flushing

LEVELS = (MEMORY, FSYNC, *(replicated(count) for count in range(1, 10)), WITNESSED)
ALWAYS = Flushing(always=True, on_demand=False, found="")
ON_DEMAND = Flushing(always=False, on_demand=True, found="")
NEVER = Flushing(always=False, on_demand=False, found="this one has `appendonly no`")


def test_the_levels_are_ordered_by_what_they_survive() -> None:
    assert sorted(LEVELS, reverse=True) == list(reversed(LEVELS))
    assert len(set(LEVELS)) == len(LEVELS)


@pytest.mark.parametrize("level", LEVELS, ids=str)
def test_a_level_is_spelled_and_read_alike(level: Level) -> None:
    assert Level.parse(str(level)) == level


@given(st.text() | st.sampled_from(["replicated", "replicated:0", "replicated:10", "Fsync", "fsync ", "always", ""]))
def test_other_texts_are_refused_with_the_list_of_levels(text: str) -> None:
    if text in map(str, LEVELS):
        return
    with pytest.raises(BadLevelError, match="must be memory, fsync, replicated:1 to replicated:9 or witnessed"):
        Level.parse(text)


@pytest.mark.parametrize("level", [FSYNC, replicated(2)], ids=str)
def test_a_server_that_does_not_flush_gives_no_level_that_needs_it(level: Level) -> None:
    with pytest.raises(LevelUnavailableError, match="set ACK_LEVEL=memory"):
        NEVER.durability(level)
    assert NEVER.durability(MEMORY) is None


def test_an_append_waits_for_exactly_what_its_level_needs() -> None:
    assert ALWAYS.durability(FSYNC) is None
    replicas = ALWAYS.durability(replicated(2))
    assert replicas is not None and (replicas.replicas, replicas.flushed) == (2, False)
    flushed = ON_DEMAND.durability(FSYNC)
    assert flushed is not None and (flushed.replicas, flushed.flushed) == (0, True)
    both = ON_DEMAND.durability(replicated(1))
    assert both is not None and (both.replicas, both.flushed) == (1, True)


def test_the_level_reached_is_what_the_connection_said_and_never_more() -> None:
    replicas = ALWAYS.durability(replicated(2))
    assert ALWAYS.reached(None, 0, False) == FSYNC
    assert ALWAYS.reached(replicas, 0, False) == FSYNC
    assert ALWAYS.reached(replicas, 1, False) == replicated(1)
    assert ALWAYS.reached(replicas, 2, False) == replicated(2)
    both = ON_DEMAND.durability(replicated(1))
    assert ON_DEMAND.reached(both, 1, False) == MEMORY
    assert ON_DEMAND.reached(both, 1, True) == replicated(1)
    assert ON_DEMAND.reached(ON_DEMAND.durability(FSYNC), 0, True) == FSYNC
    assert NEVER.reached(None, 0, False) == MEMORY

"""The ring of newest frames: what it keeps, what it forgets, whom it tells."""

import json

import pytest

from app.api.streaming.ring import (
    EVERYTHING,
    Frame,
    LogNotChainedError,
    NotChainedError,
    Ring,
    client_topic,
    frame_of_event,
    frames_of_commit,
)
from eventstore.ids import LOG_START, Cursor
from eventstore.store import StoredCommit, StoredEvent
from tests.builders import stream_id
from tests.conftest import appends, market_life

FIRST, SECOND = stream_id(number=1), stream_id(number=2)


class Noting:
    """Notes each topic it is told about, and where the log was before."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.befores: list[tuple[int, Cursor]] = []

    def changed(self, topic: str, partition: int, before: Cursor) -> None:
        self.told.append(topic)
        self.befores.append((partition, before))


def frame(order_id: str, seq: int, text: str = "{}") -> Frame:
    """Chained: an event's anchor is its seq."""
    return Frame(order_id, seq, text, terminal=False, anchor=str(seq), prev=str(seq - 1) if seq > 1 else "")


def logged(number: int, position: int, epoch: int = 1, client: str | None = None) -> Frame:
    """The first event of an order, at that position of its partition's log."""
    cursor = Cursor(epoch, position, f"{epoch:04d}{position:04d}")
    order_id = stream_id(number=position)[:-2] + f"{number:02d}"
    return Frame(order_id, 1, "{}", terminal=False, anchor=cursor.anchor, prev="", cursor=cursor, client=client)


def ring(frames_max: int = 100, characters_max: int = 10_000) -> Ring:
    return Ring(frames_max=frames_max, characters_max=characters_max)


def test_frames_after_a_seq_come_in_order() -> None:
    full = ring()
    for seq in (1, 2, 3):
        full.append(frame(FIRST, seq))
        full.append(frame(SECOND, seq))
    assert full.after(FIRST, 1) == [frame(FIRST, 2), frame(FIRST, 3)]
    assert full.after(FIRST, 3) == []
    assert full.after(FIRST, 9) == []


def test_an_unknown_order_is_not_covered() -> None:
    assert ring().after(FIRST, 0) is None


def test_what_was_evicted_is_not_covered_but_what_is_left_is() -> None:
    small = ring(frames_max=2)
    for seq in (1, 2, 3):
        small.append(frame(FIRST, seq))
    assert small.after(FIRST, 0) is None
    assert small.after(FIRST, 1) == [frame(FIRST, 2), frame(FIRST, 3)]
    small.append(frame(SECOND, 1))
    small.append(frame(SECOND, 2))
    assert small.after(FIRST, 3) is None


def test_the_texts_together_are_bounded_too() -> None:
    small = ring(characters_max=10)
    for seq in (1, 2, 3):
        small.append(frame(FIRST, seq, "12345"))
    assert small.after(FIRST, 0) is None
    assert small.after(FIRST, 1) == [frame(FIRST, 2, "12345"), frame(FIRST, 3, "12345")]


def test_a_hole_is_refused() -> None:
    full = ring()
    full.append(frame(FIRST, 4))
    with pytest.raises(NotChainedError, match=r"event 6 of .* follows 5, so not event 4, which has 4"):
        full.append(frame(FIRST, 6))


@pytest.mark.parametrize(
    "other",
    [
        Frame(FIRST, 2, "{}", terminal=False, anchor="x", prev="lost"),
        Frame(FIRST, 1, "{}", terminal=False, anchor="x", prev=""),
        Frame(FIRST, 3, "{}", terminal=False, anchor="x", prev="1"),
    ],
)
def test_a_frame_that_does_not_follow_the_last_one_is_refused(other: Frame) -> None:
    full = ring()
    full.append(frame(FIRST, 1))
    with pytest.raises(NotChainedError):
        full.append(other)
    assert full.after(FIRST, 0) == [frame(FIRST, 1)]


def test_frames_are_given_only_to_whoever_has_the_event_before_them() -> None:
    full = ring()
    for seq in (3, 4):
        full.append(frame(FIRST, seq))
    assert full.after(FIRST, 3, "3") == [frame(FIRST, 4)]
    assert full.after(FIRST, 2, "2") == [frame(FIRST, 3), frame(FIRST, 4)]
    assert full.after(FIRST, 4, "4") == []
    # Ahead of the ring: whoever has read the stream may be.
    assert full.after(FIRST, 5, "lost") == []
    for seq in (2, 3, 4):
        with pytest.raises(NotChainedError):
            full.after(FIRST, seq, "lost")


def test_a_cleared_ring_has_nothing_and_begins_anew() -> None:
    small, noting = ring(characters_max=10), Noting()
    small.watch(FIRST, noting)
    small.append(frame(FIRST, 1, "1234567890"))
    small.clear()
    assert small.after(FIRST, 0) is None
    small.append(frame(FIRST, 7, "1234567890"))
    assert small.after(FIRST, 6) == [frame(FIRST, 7, "1234567890")]
    assert noting.told == [FIRST, FIRST]


def test_watchers_are_told_of_their_orders_only_and_until_they_leave() -> None:
    full, noting, other = ring(), Noting(), Noting()
    full.watch(FIRST, noting)
    full.watch(FIRST, other)
    full.append(frame(FIRST, 1))
    full.append(frame(SECOND, 1))
    full.unwatch(FIRST, noting)
    full.unwatch(FIRST, noting)
    full.append(frame(FIRST, 2))
    assert noting.told == [FIRST]
    assert other.told == [FIRST, FIRST]


def test_a_frame_is_the_stored_event_with_phase_and_cursor() -> None:
    append = appends(FIRST, market_life())[-1]
    sealed = append.events[-1]
    made = frame_of_event(FIRST, StoredEvent(6, 3, 41, "c", sealed.hash, sealed.data))
    shown = json.loads(made.text)
    assert shown.pop("cursor") == f"3-41-{sealed.hash[:8]}"
    assert shown.pop("phase") == "COMPLETED"
    assert shown == json.loads(sealed.data)
    assert (made.order_id, made.seq, made.terminal) == (FIRST, 6, True)


def test_the_events_of_one_commit_have_a_position_each() -> None:
    append = appends(FIRST, market_life())[2]
    assert len(append.events) == 2
    commit = StoredCommit(
        partition=0,
        epoch=1,
        position=20,
        stream=FIRST,
        version=4,
        commit_id="c",
        recorded_us=0,
        events=tuple(event.data for event in append.events),
        anchors=tuple(event.hash[:8] for event in append.events),
    )
    frames = frames_of_commit(commit)
    assert [made.seq for made in frames] == [3, 4]
    assert [json.loads(made.text)["cursor"] for made in frames] == [
        str(Cursor(1, 19, append.events[0].hash[:8])),
        str(Cursor(1, 20, append.events[1].hash[:8])),
    ]
    assert [made.terminal for made in frames] == [False, False]


def test_frames_of_a_log_come_after_a_cursor_and_up_to_a_limit() -> None:
    full = ring()
    full.begin({0: LOG_START, 1: Cursor(1, 7, "00010007")})
    first, second = [logged(0, 1), logged(0, 2), logged(0, 3, epoch=2)], [logged(1, 8)]
    assert full.log_after(0, LOG_START, 9) == []
    for frame in (*first, *second):
        full.append(frame)
    assert full.log_after(0, LOG_START, 9) == first
    assert full.log_after(0, LOG_START, 2) == first[:2]
    assert full.log_after(0, first[0].cursor, 1) == [first[1]]
    assert full.log_after(0, first[2].cursor, 9) == []
    # Ahead of the ring: whoever has read the log may be.
    assert full.log_after(0, Cursor(2, 9, "lost"), 9) == ()
    assert full.log_after(1, Cursor(1, 7, "00010007"), 9) == second
    assert full.log_after(1, Cursor(1, 6, "00010006"), 9) is None
    assert full.log_after(2, LOG_START, 9) is None
    assert full.heads == {0: first[2].cursor, 1: second[0].cursor}


def test_a_log_is_given_only_to_whoever_has_its_event() -> None:
    full = ring(frames_max=2)
    full.begin({0: LOG_START})
    for position in (1, 2, 3):
        full.append(logged(0, position))
    for cursor in (Cursor(1, 1, "lost"), Cursor(2, 2, "00010002"), Cursor(1, 3, "")):
        with pytest.raises(LogNotChainedError, match="does not go on from"):
            full.log_after(0, cursor, 9)
    assert full.log_after(0, LOG_START, 9) is None
    assert full.log_after(0, Cursor(1, 1, "00010001"), 9) == [logged(0, 2), logged(0, 3)]


@pytest.mark.parametrize("other", [logged(0, 3, epoch=2), logged(0, 2, epoch=1)])
def test_a_frame_that_does_not_follow_its_log_is_refused(other: Frame) -> None:
    full = ring()
    full.begin({0: LOG_START})
    full.append(logged(0, 1, epoch=2))
    with pytest.raises(LogNotChainedError):
        full.append(other)
    assert full.heads == {0: Cursor(2, 1, "00020001")}


def test_a_cleared_ring_has_no_log_until_it_begins_again() -> None:
    full = ring()
    full.begin({0: LOG_START})
    full.append(logged(0, 1))
    full.clear()
    assert (full.heads, full.log_after(0, LOG_START, 9)) == ({}, None)
    full.begin({0: Cursor(1, 4, "00010004")})
    full.append(logged(0, 5))
    assert full.log_after(0, Cursor(1, 4, "00010004"), 9) == [logged(0, 5)]


def test_watchers_of_a_client_and_of_everything_are_told_where_the_log_was_before() -> None:
    full, client, everything = ring(frames_max=1), Noting(), Noting()
    full.begin({0: LOG_START, 1: LOG_START})
    full.watch(client_topic("ann"), client)
    full.watch(EVERYTHING, everything)
    for frame in (logged(0, 1, client="bob"), logged(0, 2, client="ann"), logged(1, 1), logged(1, 2, client="ann")):
        full.append(frame)
    assert client.told == [client_topic("ann")] * 2
    assert client.befores == [(0, logged(0, 1).cursor), (1, logged(1, 1).cursor)]
    assert everything.told == [EVERYTHING] * 4
    assert everything.befores == [(0, LOG_START), (0, logged(0, 1).cursor), (1, LOG_START), (1, logged(1, 1).cursor)]


def test_a_frame_knows_what_filters_ask_for() -> None:
    frames = [
        frame_of_event(FIRST, StoredEvent(number, 1, number, "c", event.hash, event.data))
        for number, event in enumerate(
            (event for append in appends(FIRST, market_life()) for event in append.events), 1
        )
    ]
    assert [made.event for made in frames[:2]] == ["pending", "routing"]
    assert {made.client for made in frames} == {"client-1"}
    assert [made.status for made in frames[-2:]] == ["submitted", "confirmed"]
    assert [made.assets for made in frames[:2]] == [("SOL", "USDC"), None]
    assert json.loads(frames[2].without_cursor + "}") == {
        name: value for name, value in json.loads(frames[2].text).items() if name != "cursor"
    }

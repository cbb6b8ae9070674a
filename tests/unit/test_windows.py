"""The window of a subscription: what is acknowledged by a cursor, and what remembering it costs."""

import tracemalloc

import pytest

from app.api.problems import ProblemError
from app.api.streaming.places import LogPlace
from app.api.streaming.ring import Frame
from app.api.streaming.scopes import AllScope, ClientScope, FromStart, OrderScope, Scope
from app.api.streaming.subscriptions import Subscription, Wanted
from eventstore.ids import LOG_START, Cursor

PARTITIONS = 64
WINDOW = 4_096


def order_in(partition: int) -> str:
    return f"01ARZ3NDEKTSV4RRFFQ69G5FAV-{partition:02d}"


def frame(partition: int, position: int) -> Frame:
    """The event at that position of a partition's log, whose only order it is of."""
    cursor = Cursor(1, position, f"{position:08x}")
    return Frame(order_in(partition), position, "{}", False, cursor.anchor, "", cursor)


def subscription(scope: Scope) -> Subscription:
    found = Subscription(Wanted(scope=scope, start=FromStart(), name="s", window=WINDOW), None)
    if not isinstance(scope, OrderScope):
        covered = range(PARTITIONS) if isinstance(scope, AllScope) else [3]
        found.place = LogPlace(scope, dict.fromkeys(covered, LOG_START))
    return found


def send(to: Subscription, partition: int, position: int) -> str:
    """Send an event, and return the cursor that it carries."""
    one = frame(partition, position)
    to.place.passed(one)
    to.sent(one)
    return to.place.text


@pytest.mark.parametrize("scope", [AllScope(), ClientScope("user01"), OrderScope(order_in(3))])
def test_a_cursor_gives_back_the_room_of_its_event_and_of_those_before(scope: Scope) -> None:
    to = subscription(scope)
    cursors = []
    for number in range(1, 13):
        partition = number % 4 if isinstance(scope, AllScope) else 3
        position = (number + 3) // 4 if isinstance(scope, AllScope) else number
        cursors.append(send(to, partition, position))
    assert to.room == WINDOW - 12
    to.acknowledge(cursors[4])
    assert to.room == WINDOW - 7
    to.acknowledge(cursors[1])
    to.acknowledge(cursors[4])
    assert to.room == WINDOW - 7
    to.acknowledge(cursors[11])
    assert to.room == WINDOW


def test_a_bookmark_gives_back_the_room_of_the_events_before_it() -> None:
    to = subscription(AllScope())
    for position in (1, 2, 3):
        send(to, 0, position)
    # Left out: sent to nobody.
    to.place.passed(frame(1, 1))
    bookmark = to.place.text
    send(to, 1, 2)
    to.acknowledge(bookmark)
    assert to.room == WINDOW - 1


@pytest.mark.parametrize(
    ("scope", "cursor"),
    [
        (AllScope(), "nonsense"),
        (AllScope(), "1-1-00000001"),
        (AllScope(), "64.1-1-00000001"),
        (OrderScope(order_in(3)), "1"),
        (OrderScope(order_in(3)), "3.1-1-00000001"),
    ],
)
def test_what_is_no_cursor_of_the_subscription_is_refused(scope: Scope, cursor: str) -> None:
    to = subscription(scope)
    send(to, 3, 1)
    with pytest.raises(ProblemError) as refused:
        to.acknowledge(cursor)
    assert (refused.value.code, refused.value.errors[0].pointer) == ("invalid_message", "/cursor")
    assert to.room == WINDOW - 1


def test_a_full_window_over_many_partitions_costs_little_memory() -> None:
    to = subscription(AllScope())
    frames = [frame(number % PARTITIONS, 1 + number // PARTITIONS) for number in range(WINDOW)]
    tracemalloc.start()
    try:
        for one in frames:
            to.place.passed(one)
            to.sent(one)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert to.room == 0
    assert grown < 16 * WINDOW


@pytest.mark.parametrize("scope", [AllScope(), ClientScope("user01"), OrderScope(order_in(3))])
def test_an_acknowledgement_before_the_subscription_has_begun_changes_nothing(scope: Scope) -> None:
    to = Subscription(Wanted(scope=scope, start=FromStart(), name="s", window=WINDOW), FromStart())
    to.acknowledge("1-1-00000001")
    assert to.room == WINDOW

"""The table of scripted scenarios: what the server does, and what an application must have seen of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.conformance.followers import Frame, Task
from tests.conformance.scripts import TORN_FRAME, Abort, Close, Connection, Text

ORDER: Final = "01ARZ3NDEKTSV4RRFFQ69G5FAV-00"
OTHER: Final = "01ARZ3NDEKTSV4RRFFQ69G5FAW-00"
STATUSES: Final = ("pending", "routing", "routing", "building", "submitted", "confirmed")
WELCOME: Final[Frame] = {"type": "welcome", "v": 1, "heartbeatMs": 15_000}
HEARTBEAT: Final[Frame] = {"type": "heartbeat", "t": 1, "head": "0.1-6-00000000"}
COMPLETED: Final[Frame] = {"type": "unsubscribed", "sub": "follow", "reason": "completed", "cursor": "1-6-00000000"}
ALL: Final = {"scope": "all", "from": "start"}
ONE: Final = {"orderId": ORDER}


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One row."""

    name: str
    task: Task
    script: Sequence[Connection]
    seen: Sequence[str]
    error: Mapping[str, Any] | None = None


def cursor(seq: int, epoch: int = 1) -> str:
    return f"{epoch}-{seq}-00000000"


def event(seq: int, order: str = ORDER, *, position: int | None = None, epoch: int = 1) -> Frame:
    """An event; its position in the log is its seq unless given."""
    place = cursor(position or seq, epoch)
    return {"sub": "follow", "event": "e", "status": STATUSES[seq - 1], "orderId": order, "seq": seq, "cursor": place}


def events(*seqs: int) -> list[Frame]:
    return [event(seq) for seq in seqs]


def batch(*items: Frame) -> Frame:
    return {"type": "events", "sub": "follow", "items": [{**item, "replay": True} for item in items]}


def subscribed(after: str | int, **members: Any) -> Frame:
    named = {"orderId": ORDER} if isinstance(after, int) else {"scope": "all"}
    return {"type": "subscribed", "sub": "follow", **named, "after": after, **members}


def goaway(code: int, after_ms: int | None = None, place: str | None = None) -> Frame:
    frame: Frame = {"type": "goaway", "code": code, "reason": "for this test"}
    if after_ms is not None:
        frame["reconnectAfterMs"] = after_ms
    return frame if place is None else {**frame, "cursors": {"follow": place}}


def error(code: str, **members: Any) -> Frame:
    return {"type": "error", "code": code, "sub": "follow", "message": "for this test", **members}


def places(*seqs: int) -> list[str]:
    return [f"{ORDER}/{seq}" for seq in seqs]


EVERY: Final = places(1, 2, 3, 4, 5, 6)
BEGINNING: Final = Connection({"after": None}, [WELCOME, subscribed(0), *events(1, 2, 3)])


def broken(name: str, *end: Frame | Close | Abort | Text) -> Scenario:
    """After three events the connection ends; the rest must be asked for after the third, and comes."""
    first = Connection(BEGINNING.asked, [*BEGINNING.steps, *end])
    rest = Connection({"after": cursor(3)}, [WELCOME, subscribed(3), *events(4, 5, 6)])
    return Scenario(name=name, task=Task(wanted=ONE), script=[first, rest], seen=EVERY)


def sent_away(name: str, code: int, *end: Frame | Close | Abort | Text) -> Scenario:
    """After three events the client is told not to come back, and does not."""
    first = Connection(BEGINNING.asked, [*BEGINNING.steps, *end])
    told = {"code": "sent_away", "closeCode": code}
    return Scenario(name=name, task=Task(wanted=ONE), script=[first], seen=places(1, 2, 3), error=told)


def resumed(task: Task, name: str, *connections: Connection, seen: Sequence[str] = EVERY) -> Scenario:
    return Scenario(name=name, task=task, script=connections, seen=seen)


_ENDINGS: Final = [
    *(broken(f"close {code}", Close(code)) for code in (1000, 1001, 1011, 1012, 1013, 4500, 4508, 4510, 4513)),
    broken("no close", Abort()),
    broken("a close in the middle of a frame", Abort(TORN_FRAME)),
    broken("goaway, then close", goaway(4503, 10), Close(4503)),
    broken("goaway, then no close", goaway(4503, 10), Abort()),
    broken("what is no JSON", Text("nonsense")),
    broken("what is no object", Text("3")),
    broken("the server's own trouble", error("unavailable")),
    broken("messages that nobody knows", {"type": "new"}, {"sub": "follow", "lagging": 3}, Close(4508)),
    *(sent_away(f"close {code}", code, Close(code)) for code in (1009, 4401, 4403, 4406, 4409, 4429)),
    sent_away("goaway for good, then no close", 4429, goaway(4429), Abort()),
]

_REPEATS_AND_GAPS: Final = [
    resumed(
        Task(wanted=ONE),
        "events repeated after a resume",
        Connection({}, [WELCOME, subscribed(0), *events(1, 2, 3), Abort()]),
        Connection({}, [WELCOME, subscribed(3), *events(2, 3, 3, 4, 2, 5, 5, 6)]),
    ),
    resumed(
        Task(wanted=ONE),
        "an event that is missing at first",
        Connection({}, [WELCOME, subscribed(0), *events(1, 2, 4, 5)]),
        Connection({"after": cursor(2)}, [WELCOME, subscribed(2), *events(3, 4, 5, 6)]),
    ),
    resumed(
        Task(wanted=ONE),
        "a first event that is missing at first",
        Connection({}, [WELCOME, subscribed(0), *events(2)]),
        Connection({}, [WELCOME, subscribed(0), *events(1, 2, 3, 4, 5, 6)]),
    ),
    resumed(
        Task(wanted=ALL),
        "an order's first event that is missing at first",
        Connection({"from": "start"}, [WELCOME, subscribed("start"), event(2)]),
        Connection({"after": "start"}, [WELCOME, subscribed("start"), event(1), event(2), COMPLETED]),
        seen=places(1, 2),
    ),
    Scenario(
        name="an event that is missing for good",
        task=Task(wanted=ALL),
        script=[
            Connection({"from": "start"}, [WELCOME, subscribed("start"), event(1), event(2), event(4)]),
            Connection({"after": cursor(2)}, [WELCOME, subscribed(cursor(2)), event(4)]),
        ],
        seen=places(1, 2),
        error={"code": "gap", "orderId": ORDER, "expected": 3, "seq": 4},
    ),
    resumed(
        Task(wanted={**ALL, "events": ["e"]}),
        "no gap where a filter leaves out",
        Connection({"events": ["e"]}, [WELCOME, subscribed("start"), *events(2, 5, 6), COMPLETED]),
        seen=places(2, 5, 6),
    ),
    resumed(
        Task(wanted={"scope": "all", "from": "now"}),
        "no gap where an order was under way",
        Connection({"from": "now"}, [WELCOME, subscribed(cursor(3)), *events(4, 5, 6), COMPLETED]),
        seen=places(4, 5, 6),
    ),
]

_MANY_ORDERS: Final = [
    resumed(
        Task(wanted=ALL),
        "batches of several orders, cut between two",
        Connection({"from": "start"}, [subscribed("start"), batch(event(1), event(1, OTHER, position=2)), Abort()]),
        Connection({"after": cursor(2)}, [subscribed(cursor(2)), batch(event(2, OTHER, position=3)), COMPLETED]),
        seen=[f"{ORDER}/1", f"{OTHER}/1", f"{OTHER}/2"],
    ),
    resumed(
        Task(wanted={"clientId": "user01", "from": "now"}),
        "from now: resumed where it began, at a bookmark, and where goaway says",
        Connection({"clientId": "user01", "from": "now"}, [subscribed(cursor(1)), Abort()]),
        Connection(
            {"from": None, "after": cursor(1)},
            [subscribed(cursor(1)), {"type": "bookmark", "sub": "follow", "cursor": cursor(2)}, Abort()],
        ),
        Connection({"after": cursor(2)}, [subscribed(cursor(2)), goaway(4503, 1, cursor(3)), Close(4503)]),
        Connection({"after": cursor(3)}, [subscribed(cursor(3)), *events(4), COMPLETED]),
        seen=places(4),
    ),
    resumed(
        Task(wanted={"scope": "all", "snapshot": True}),
        "a snapshot, cut, and events that it has already",
        Connection(
            {"snapshot": True},
            [
                subscribed(cursor(2), snapshot={"asOf": cursor(2), "orders": [{"orderId": ORDER, "seq": 3}]}),
                *events(2, 3, 4),
                Abort(),
            ],
        ),
        Connection({"snapshot": None, "after": cursor(4)}, [subscribed(cursor(4)), *events(5), COMPLETED]),
        seen=["snapshot", *places(4, 5)],
    ),
]

_LOST_PLACES: Final = [
    Scenario(
        name="a fork, told with the last common event and obeyed",
        task=Task(wanted=ONE, obey=True),
        script=[
            Connection({}, [*BEGINNING.steps, goaway(4510, 1), Close(4510)]),
            Connection({"after": cursor(3)}, [error("fork", lastCommon={"seq": 2, "cursor": cursor(2)})]),
            Connection({"after": cursor(2)}, [WELCOME, subscribed(2), *(event(seq, epoch=2) for seq in (3, 4, 5, 6))]),
        ],
        seen=places(1, 2, 3, 3, 4, 5, 6),
        error={"code": "fork"},
    ),
    Scenario(
        name="a fork without a common event, obeyed from the beginning",
        task=Task(wanted={**ALL, "after": cursor(9)}, obey=True),
        script=[
            Connection({"after": cursor(9)}, [error("fork", lastCommon=None)]),
            Connection({}, [WELCOME, subscribed("start"), event(1, epoch=2), COMPLETED]),
        ],
        seen=places(1),
        error={"code": "fork"},
    ),
    Scenario(
        name="a cursor that is unavailable, obeyed by a snapshot",
        task=Task(wanted={"clientId": "user01", "after": cursor(1)}, obey=True),
        script=[
            Connection(
                {"after": cursor(1)},
                [error("cursor_unavailable", clientId="user01", earliest=cursor(4), head=cursor(6))],
            ),
            Connection(
                {"snapshot": True, "after": None},
                [
                    WELCOME,
                    subscribed(cursor(5), snapshot={"asOf": cursor(5), "orders": [{"orderId": ORDER, "seq": 5}]}),
                    *events(6),
                    COMPLETED,
                ],
            ),
        ],
        seen=["snapshot", f"{ORDER}/6"],
        error={"code": "cursor_unavailable"},
    ),
    Scenario(
        name="a truncated log, obeyed from the first event",
        task=Task(wanted={**ONE, "after": cursor(3)}, obey=True),
        script=[
            Connection({"after": cursor(3)}, [error("truncated", orderId=ORDER)]),
            Connection({}, [WELCOME, subscribed(0), *events(1, 2, 3, 4, 5, 6)]),
        ],
        seen=EVERY,
        error={"code": "truncated"},
    ),
    Scenario(
        name="a refusal is not repeated",
        task=Task(wanted=ONE),
        script=[Connection({}, [error("not_found")])],
        seen=[],
        error={"code": "not_found"},
    ),
    resumed(
        Task(wanted={**ONE, "after": cursor(6)}),
        "an order that has ended",
        Connection({"after": cursor(6)}, [WELCOME, subscribed(6, ended=True)]),
        seen=[],
    ),
]

_SILENCE: Final = [
    resumed(
        Task(wanted=ONE, silence_ms=400),
        "silence",
        BEGINNING,
        Connection({"after": cursor(3)}, [WELCOME, subscribed(3), *events(4, 5, 6)]),
    ),
    resumed(
        Task(wanted=ONE, silence_ms=None),
        "silence beyond what the welcome announces",
        # Twice this and five seconds are 400 ms.
        Connection({}, [{**WELCOME, "heartbeatMs": -2_300}, subscribed(0), *events(1, 2, 3)]),
        Connection({"after": cursor(3)}, [WELCOME, subscribed(3), *events(4, 5, 6)]),
    ),
]

_TRIES: Final = [
    Scenario(
        name="connections that bring nothing new",
        task=Task(wanted=ONE, tries=3),
        script=[
            Connection({}, [*BEGINNING.steps, Abort()]),
            Connection({"after": cursor(3)}, [WELCOME, subscribed(3), *events(3), Abort()]),
            Connection(
                {"after": cursor(3)}, [WELCOME, subscribed(3), {"type": "caught_up", "cursor": cursor(3)}, Abort()]
            ),
        ],
        seen=places(1, 2, 3),
        error={"code": "unreachable"},
    ),
    resumed(
        Task(wanted=ONE, tries=2),
        "every connection brings an event or a heartbeat",
        Connection({}, [WELCOME, subscribed(0), *events(1), Abort()]),
        Connection({"after": cursor(1)}, [WELCOME, subscribed(1), HEARTBEAT, Abort()]),
        Connection({"after": cursor(1)}, [WELCOME, subscribed(1), *events(2, 3, 4), Close(1012)]),
        Connection({"after": cursor(4)}, [WELCOME, subscribed(4), *events(5, 6)]),
    ),
]

SCENARIOS: Final[Sequence[Scenario]] = [
    *_ENDINGS,
    *_REPEATS_AND_GAPS,
    *_MANY_ORDERS,
    *_LOST_PLACES,
    *_SILENCE,
    *_TRIES,
]

"""The crash points of an order's way: named places at which crash tests end a process; else nobody listens."""

from collections.abc import Callable
from typing import Final

Reach = Callable[[str, str], None]
"""Called with the name of a crash point and the order id whenever execution passes it."""

POINTS: Final = {
    "K1": "an order is asked for, nothing is appended",
    "K2": "OrderAccepted is appended, nobody is answered",
    "taken": "a worker has taken the task of an accepted order",
    "K3": "AttemptStarted is appended",
    "K4": "the venues have answered, nothing is appended",
    "K5": "RouteSelected is appended",
    "K6": "the swap is signed, nothing is appended",
    "K7": "the intent is appended, not yet known to be durable",
    "K8": "the intent is durable, nothing is sent",
    "K9": "the bytes are being sent",
    "K10": "the bytes are sent",
    "K11": "the swap has landed, nobody has looked",
    "K12": "the outcome is seen, nothing is appended",
    "K13": "the outcome is appended",
    "K14": "the task is finished, the projector has not seen the outcome",
    "K15": "the outcome is projected, no client has seen it",
    "K16": "expiry is proven, nothing is appended",
    "K17": "a worker stands still at any of these and wakes up later",
    "K18": "the store's server is killed, or loses its end",
    "K19": "PostgreSQL is away",
    "K20": "a worker's clock jumps",
}
"""Every crash point, by name. K7, K9, K11, K14, K15 and K17 to K20 lie outside this package: their tests reach them."""


def unwatched(point: str, order_id: str) -> None:
    """Do nothing: outside the crash tests a crash point costs one call."""

"""What a member's name means wherever it is text: one word per idea, so one pattern and one example for each."""

from typing import Any, Final, get_args

from app.orders.lifecycle import Status

ORDER_ID: Final = "01ARZ3NDEKTSV4RRFFQ69G5FAV-03"
CURSOR: Final = "1-12-60303ae2"

ORDER_ID_PATTERN: Final = "^[0-7][0-9A-HJKMNP-TV-Z]{25}-[0-9]{2}$"
_EVENT_CURSOR: Final = "[1-9][0-9]{0,15}-[1-9][0-9]{0,15}-[0-9a-f]{8}"
EVENT_CURSOR_PATTERN: Final = f"^{_EVENT_CURSOR}$"
_ALL_CURSOR: Final = rf"[0-9]{{1,2}}\.{_EVENT_CURSOR}(~[0-9]{{1,2}}\.{_EVENT_CURSOR})*"
CURSOR_PATTERN: Final = f"^(start|[0-9]+|{_EVENT_CURSOR}|{_ALL_CURSOR})$"
DECIMAL_PATTERN: Final = r"^(0|[1-9][0-9]*)(\.[0-9]+)?$"
HASH_PATTERN: Final = "^[0-9a-f]{64}$"

_DECIMAL: Final = {"pattern": DECIMAL_PATTERN, "examples": ["1.5"]}
_TIME: Final = {"format": "date-time", "examples": ["2026-11-21T22:27:37.001000Z"]}
_CURSOR: Final = {"pattern": CURSOR_PATTERN, "examples": [CURSOR]}

MEMBERS: Final[dict[str, dict[str, Any]]] = {
    "orderId": {"pattern": ORDER_ID_PATTERN, "examples": [ORDER_ID]},
    "clientId": {"minLength": 1, "maxLength": 64, "examples": ["user01"]},
    "status": {"enum": list(get_args(Status))},
    "orderStatus": {"enum": list(get_args(Status))},
    **dict.fromkeys(("cursor", "head", "earliest"), _CURSOR),
    **dict.fromkeys(
        ("amount", "amountIn", "amountOut", "limitPrice", "minOut", "maxIn", "reference", "executedPrice"), _DECIMAL
    ),
    **dict.fromkeys(("fee", "networkFee", "lp", "protocol", "fund"), _DECIMAL),
    **dict.fromkeys(("baseVolume", "quoteVolume", "baseFee", "quoteFee"), _DECIMAL),
    **dict.fromkeys(
        ("at", "createdAt", "updatedAt", "expireAt", "qualitySince", "dueAt", "nextCheckAt", "time"), _TIME
    ),
    "hash": {"pattern": HASH_PATTERN},
    "prev": {"pattern": HASH_PATTERN},
}
"""Additions to the schema of a text, by JSON name."""

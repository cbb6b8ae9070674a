"""Times as events hold them: UTC text with microseconds; integers of microseconds since 1970 for arithmetic."""

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def format_time(us: int) -> str:
    """Return ``us`` as ``YYYY-MM-DDThh:mm:ss.ffffffZ``."""
    return (_EPOCH + timedelta(microseconds=us)).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def parse_time(text: str) -> int:
    """Return the microseconds since 1970 of a text that :func:`format_time` made.

    Raises:
        ValueError: not exactly that form.
    """
    moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    return (moment - _EPOCH) // _MICROSECOND

"""How the simulated world behaves: latencies, failures and the venues' difference, as one set of numbers."""

from typing import Final

from msgspec import Struct

from app.dex.errors import UnknownProfileError

MILLION: Final = 1_000_000


class Profile(Struct, frozen=True, kw_only=True):
    """Numbers of a simulated world; chances in millionths (ppm). The defaults are the profile ``assignment``."""

    quote_latency_ms: int = 200
    venue_error_ppm: int = 5_000
    """Chance that a venue answers an attempt with an error."""
    venue_timeout_ppm: int = 5_000
    """Chance that a venue gives an attempt no answer."""
    handicap_ticks: tuple[int, int] = (245, 445)
    """Least and largest factor, as a power of 1.0001, by which one venue's price is worse for an attempt's trader.

    The final amounts then differ by 2 to 5 %, given at least 10,000 base units out, 1,000 in the quote token and an
    impact of at most 1 %: fees, bins, impact and rounding differ by less than 0.43 % between the venues."""
    landing_ppm: tuple[int, ...] = (0, 0, 0, 0, 500_000, 1_000_000)
    """Chance of landing in a slot, by slots since the broadcast; the last value holds for all later slots.

    With 2 slots to confirmation at 400 ms, a swap is confirmed 2.0 to 2.8 s after its broadcast."""
    drop_ppm: int = 10_000
    """Chance that a broadcast reaches nobody."""
    fork_ppm: int = 5_000
    """Chance that a landing is reverted with its fork; the swap may land again in a later slot."""
    program_error_ppm: int = 0
    """Chance that a landed swap fails for another reason than its price."""


ASSIGNMENT: Final = Profile()
_AVAILABLE: Final = {"assignment": ASSIGNMENT}
_PLANNED: Final = frozenset({"major", "longtail"})


def profile_named(name: str) -> Profile:
    """Return the profile called ``name``.

    Raises:
        UnknownProfileError: there is none, or it is not available yet.
    """
    found = _AVAILABLE.get(name)
    if found is None:
        state = "not available yet" if name in _PLANNED else "unknown"
        raise UnknownProfileError(name, f"the profile {name!r} is {state}", tuple(_AVAILABLE))
    return found

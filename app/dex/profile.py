"""How the simulated world behaves: latencies, failures and the venues' difference, as one set of numbers."""

from typing import Final

from msgspec import Struct

from app.dex.errors import UnknownProfileError
from app.dex.pools.meteora import TERMS, Terms
from app.dex.pools.raydium import TRADE_FEE

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
    raydium_fee_ppm: int = TRADE_FEE
    meteora: Terms = TERMS
    raydium_depth_ppm: int = MILLION
    """Raydium's reserves, compared with those of :func:`app.dex.market.pool_reserve`."""
    meteora_depth_ppm: int = MILLION
    """The same for Meteora: a bin holds what Raydium's pool would exchange over one step with these reserves."""
    volatility_ppm: int = MILLION
    """Changes of the reference price, compared with about 80 % a year."""
    basis_ticks: int = 0
    """How far each venue's price swings about the reference price, as a power of 1.0001; a fee band cuts it off."""
    stale_ppm: int = 0
    """Chance that a venue answers an attempt at a slot with the state of an earlier slot."""
    stale_slots_max: int = 40
    """How much earlier that is at most; at least 1."""
    outage_ppm: int = 0
    """Chance that a venue is out of order for a whole window of ``outage_slots``."""
    outage_slots: int = 150


ASSIGNMENT: Final = Profile()
MAJOR: Final = Profile(
    handicap_ticks=(0, 0),
    meteora=Terms(
        bin_step_bps=4,
        base_factor=10_000,
        variable_fee_control=40_000,
        filter_ms=30_000,
        decay_ms=600_000,
        reduction=5_000,
        volatility_max=350_000,
    ),
    raydium_depth_ppm=4 * MILLION,
    meteora_depth_ppm=4 * MILLION,
    basis_ticks=32,
    stale_ppm=10_000,
    outage_ppm=2_000,
)
"""Deep pools of cheap tiers, 0.25 % and 0.04 %, whose prices stay within their fees of one reference price.

The final amounts of orders of up to 0.8 % of Raydium's pool differ by 0 to 30 bps in four of five cases, never by more
than 60; Meteora, the cheaper one, mostly wins."""
LONGTAIL: Final = Profile(
    handicap_ticks=(0, 0),
    raydium_fee_ppm=10_000,
    meteora=Terms(
        bin_step_bps=100,
        base_factor=20_000,
        variable_fee_control=7_500,
        filter_ms=300_000,
        decay_ms=1_200_000,
        reduction=5_000,
        volatility_max=150_000,
    ),
    raydium_depth_ppm=5_000,
    meteora_depth_ppm=1_500,
    volatility_ppm=4 * MILLION,
    basis_ticks=150,
    stale_ppm=30_000,
    outage_ppm=10_000,
)
"""Thin, volatile pools of dear tiers, 1 % and 2 %, whose prices stay within their fees of one reference price.

The final amounts of orders of 0.1 to 1.6 % of Raydium's pool, some 30 to 500 dollars, differ by 1 to 5 % in five of six
cases: by tiers, depth and impact; Raydium, the cheaper and deeper one, mostly wins."""
_AVAILABLE: Final = {"assignment": ASSIGNMENT, "major": MAJOR, "longtail": LONGTAIL}


def profile_named(name: str) -> Profile:
    """Return the profile called ``name``.

    Raises:
        UnknownProfileError: there is none.
    """
    found = _AVAILABLE.get(name)
    if found is None:
        raise UnknownProfileError(name, tuple(_AVAILABLE))
    return found

"""The errors of venues, router and chain; each says what the caller does next."""

from typing import ClassVar

from app.orders.events import QuoteCode


class DexError(Exception):
    """Base of every error that this package raises on purpose."""


class UnknownTokenError(DexError):
    """No such token is registered: show ``known``, the symbols that are, to whoever named it."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"unknown token {name!r}; known are {', '.join(known)}")
        self.name = name
        self.known = known


class UnknownPairError(DexError):
    """No venue has a pool for these two tokens: show ``known``, the pairs that exist, to whoever named them."""

    def __init__(self, base: str, quote: str, known: tuple[str, ...]) -> None:
        super().__init__(
            f"no pool trades {base} against {quote}; the pools are {', '.join(known)}, in either direction"
        )
        self.base = base
        self.quote = quote
        self.known = known


class UnknownProfileError(DexError):
    """There is no such simulation profile: choose one of ``known``."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"unknown profile {name!r}; known are {', '.join(known)}")
        self.name = name
        self.known = known


class VenueError(DexError):
    """A venue gives no price for this swap: record ``reason`` as its answer and use another venue, or retry later.

    ``code`` is the subclass's reason as one word, for events.
    """

    code: ClassVar[QuoteCode]

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class VenueUnavailableError(VenueError):
    """The venue is out of order for the moment: ask again in a later attempt."""

    code = "unavailable"


class VenueTimeoutError(VenueError):
    """The venue gave no answer in time: ask again in a later attempt."""

    code = "timeout"


class NoLiquidityError(VenueError):
    """The pool does not hold enough for this amount: only a smaller order can be served here."""

    code = "no_liquidity"


class DustError(VenueError):
    """The amount is so small that the pool would pay out nothing for it: only a larger order can be served here."""

    code = "dust"


class PriceOutOfRangeError(VenueError):
    """A price index lies where the fixed-point price is zero: no pool can exist there."""

    code = "out_of_range"


class NotLaunchedError(VenueError):
    """The pool opens later: ask again then."""

    code = "not_launched"


class CircuitOpenError(VenueError):
    """The venue was asked too soon after repeated failures, and is left alone: ask again in a later attempt."""

    code = "circuit_open"


class ChainError(DexError):
    """Base of what the simulated chain refuses or cannot do."""


class MalformedMessageError(ChainError):
    """Bytes that are no swap message of this format: the sender is broken, sending again is useless."""


class InvalidSignatureError(ChainError):
    """The signature does not belong to the message and its payer: the sender is broken, sending again is useless."""


class BlockhashExpiredError(ChainError):
    """The message's blockhash is too old, or never was one: this send does nothing.

    Earlier sends of the same bytes may have landed: observe the signature before signing anew.
    """


class ChainUnavailableError(ChainError):
    """The chain's server gave no answer; a send may or may not have arrived. Back off and ask again."""


class ChainMismatchError(ChainError):
    """The stored chain was made with another seed or profile: its history would change. Use those, or a new chain."""

"""Which tokens and pairs the simulated venues trade."""

from typing import Final

from msgspec import Struct

from app.dex.errors import UnknownPairError, UnknownTokenError


class Token(Struct, frozen=True):
    """An SPL token; ``decimals`` is how many fraction digits one unit has."""

    symbol: str
    mint: str
    decimals: int


SOL: Final = Token("SOL", "So11111111111111111111111111111111111111112", 9)
USDC: Final = Token("USDC", "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v", 6)
USDT: Final = Token("USDT", "Es9vMFrzaCERmJfrF4H2FYD4KCoNkY11McCe8BenwNYB", 6)
BONK: Final = Token("BONK", "DezXAZ8z7PnrnRJjz3wXBoRgixCa6xjnB7YaB1pPB263", 5)
JUP: Final = Token("JUP", "JUPyiwrYJFskUPiHa7hkeR8VUtAeFoSYbKedZNsDvCN", 6)
RAY: Final = Token("RAY", "4k3Dyjzvzp8eMZWUXbBCjEvwSkkk59S5iCNLY3QrkX6R", 6)
ETH: Final = Token("ETH", "7vfCXTUXx5WJV5JADk17DUJ4ksgau7utNKj4b963voxs", 8)

# A token's index is part of the swap message's format: append only.
TOKENS: Final = (SOL, USDC, USDT, BONK, JUP, RAY, ETH)


class Pair(Struct, frozen=True):
    """A pool's two tokens in the pool's own orientation; the price is quote per base."""

    base: Token
    quote: Token

    @property
    def name(self) -> str:
        return f"{self.base.symbol}/{self.quote.symbol}"


PAIRS: Final = (
    Pair(SOL, USDC),
    Pair(SOL, USDT),
    Pair(USDC, USDT),
    Pair(JUP, USDC),
    Pair(RAY, USDC),
    Pair(BONK, USDC),
    Pair(ETH, USDC),
    Pair(JUP, SOL),
    Pair(RAY, SOL),
    Pair(BONK, SOL),
    Pair(ETH, SOL),
)

_BY_NAME: Final = {name: token for token in TOKENS for name in (token.symbol, token.mint)}
_BY_SYMBOLS: Final = {
    symbols: pair
    for pair in PAIRS
    for symbols in ((pair.base.symbol, pair.quote.symbol), (pair.quote.symbol, pair.base.symbol))
}


def token(name: str) -> Token:
    """Return the token with the symbol (upper case) or mint ``name``.

    Raises:
        UnknownTokenError: neither a known symbol nor a known mint.
    """
    found = _BY_NAME.get(name)
    if found is None:
        raise UnknownTokenError(name, tuple(known.symbol for known in TOKENS))
    return found


def pair_of(base: Token, quote: Token) -> Pair:
    """Return the pool's pair for two tokens, whichever of them an order calls its base.

    Raises:
        UnknownPairError: no pool trades the one against the other, or both are the same.
    """
    found = _BY_SYMBOLS.get((base.symbol, quote.symbol))
    if found is None:
        raise UnknownPairError(base.symbol, quote.symbol, tuple(pair.name for pair in PAIRS))
    return found

"""Which tokens and pairs the simulated venues trade."""

import re
from functools import lru_cache
from typing import Final

from msgspec import Struct

from app.dex.draws import draw, draw_bytes
from app.dex.errors import UnknownPairError, UnknownTokenError

LAUNCHED_MAX: Final = 60_000
"""Largest number of a launched token."""

_LAUNCHED_DECIMALS: Final = 6
_LAUNCHED_SYMBOL: Final = re.compile(r"NEW([1-9][0-9]{0,4})", re.ASCII)
_MINT_BYTES: Final = 32
_MINT: Final = re.compile(r"[1-9A-HJ-NP-Za-km-z]{32,44}", re.ASCII)
_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS: Final = {letter: digit for digit, letter in enumerate(_ALPHABET)}


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

# A token's index is part of the swap message's format: append only. Launched tokens are not listed.
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
    """Return the token with the symbol (upper case) or mint ``name``; launched tokens included, opened or not.

    Raises:
        UnknownTokenError: neither a known symbol nor a known mint.
    """
    found = _BY_NAME.get(name) or _launched(name)
    if found is None:
        raise UnknownTokenError(name, tuple(known.symbol for known in TOKENS))
    return found


def pair_of(base: Token, quote: Token) -> Pair:
    """Return the pool's pair for two tokens, whichever of them an order calls its base.

    A launched token trades against SOL alone, and is the pool's base.

    Raises:
        UnknownPairError: no pool trades the one against the other, or both are the same.
    """
    found = _BY_SYMBOLS.get((base.symbol, quote.symbol)) or _launched_pair(base, quote)
    if found is None:
        raise UnknownPairError(base.symbol, quote.symbol, tuple(pair.name for pair in PAIRS))
    return found


def _launched_pair(base: Token, quote: Token) -> Pair | None:
    if quote == SOL and is_launched_token(base):
        return Pair(base, SOL)
    if base == SOL and is_launched_token(quote):
        return Pair(quote, SOL)
    return None


@lru_cache(maxsize=1024)
def launch_token(number: int) -> Token:
    """Return the launched token ``number``, 1 to :data:`LAUNCHED_MAX`; it trades from its launch on.

    Raises:
        ValueError: there is no such number.
    """
    if not 1 <= number <= LAUNCHED_MAX:
        raise ValueError(f"launched tokens are numbered from 1 to {LAUNCHED_MAX}, not {number}")
    # The last two bytes hide the number, so that a mint leads to its token without a list of all of them.
    drawn = draw_bytes(_MINT_BYTES - 2, "launched token", number)
    return Token(f"NEW{number}", base58(drawn + _hidden(drawn, number).to_bytes(2, "big")), _LAUNCHED_DECIMALS)


def is_launched_token(token: Token) -> bool:
    """Return whether ``token`` is one of :func:`launch_token`'s."""
    return launch_number(token) is not None


def launch_number(token: Token) -> int | None:
    """Return the number that :func:`launch_token` makes ``token`` of, or None for any other token."""
    number = _number_in_symbol(token.symbol)
    return number if 1 <= number <= LAUNCHED_MAX and launch_token(number) == token else None


def _launched(name: str) -> Token | None:
    number = _number_in_symbol(name) or _number_in_mint(name)
    found = launch_token(number) if 1 <= number <= LAUNCHED_MAX else None
    return found if found is not None and name in (found.symbol, found.mint) else None


def _number_in_symbol(name: str) -> int:
    match = _LAUNCHED_SYMBOL.fullmatch(name)
    return int(match[1]) if match else 0


def _number_in_mint(name: str) -> int:
    if not _MINT.fullmatch(name):
        return 0
    data = from_base58(name)
    return _hidden(data[:-2], int.from_bytes(data[-2:], "big"))


def _hidden(drawn: bytes, number: int) -> int:
    return number ^ (draw("launched token", drawn) & 0xFFFF)


def base58(data: bytes) -> str:
    """Return ``data`` in Bitcoin's base 58: each leading zero byte as ``1``."""
    number, letters = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        letters = _ALPHABET[digit] + letters
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + letters


def from_base58(text: str) -> bytes:
    """Return the bytes that :func:`base58` made ``text`` of.

    Raises:
        ValueError: a character is outside the alphabet.
    """
    number = 0
    for letter in text:
        if letter not in _DIGITS:
            raise ValueError(f"{letter!r} is not a base 58 digit")
        number = number * 58 + _DIGITS[letter]
    return b"\0" * (len(text) - len(text.lstrip("1"))) + number.to_bytes((number.bit_length() + 7) // 8, "big")

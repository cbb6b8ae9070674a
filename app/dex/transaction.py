"""The simulated Solana transaction: a compact signed swap message, its id, and what it does step by step."""

import re
from functools import lru_cache
from struct import Struct as Layout
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Struct

from app.dex.draws import draw_bytes
from app.dex.errors import InvalidSignatureError, MalformedMessageError, UnknownPairError
from app.dex.tokens import SOL, TOKENS, pair_of
from app.dex.venue import VENUES, Swap
from app.orders.money import MAX_UNITS, format_units

SIGNATURE_BYTES: Final = 64
_VERSION: Final = 1
# version, payer, blockhash, venue, base, quote, flags, amount, limit, memo length; the memo follows.
_HEAD: Final = Layout(">B32s32sBBBBQQB")
_BUY, _WRAP, _UNWRAP = 1, 2, 4
_MEMO: Final = re.compile(r"([!-~]{1,64}):([1-9][0-9]?)", re.ASCII)
_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS: Final = {letter: digit for digit, letter in enumerate(_ALPHABET)}


class SwapMessage(Struct, frozen=True, kw_only=True):
    """What a simulated swap transaction says.

    Order and attempt stand in its memo, so that two equal swaps have different signatures.
    """

    payer: bytes
    """Ed25519 public key, 32 bytes."""
    blockhash: bytes
    """32 bytes; see :meth:`app.dex.chain.SimulatedChain.latest_blockhash`."""
    venue: str
    swap: Swap
    limit: int
    """Base units of the quote token: least received for a sell, most paid for a buy; 1 to 2^64 − 1."""


class Wallet:
    """The simulated wallet of a seed: it owns nothing real, its signatures are real Ed25519."""

    def __init__(self, seed: str) -> None:
        self._key: Final = Ed25519PrivateKey.from_private_bytes(draw_bytes(32, seed, "wallet"))
        self.address: Final = self._key.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of the signature; the same for the same message."""
        return self._key.sign(message)


def encode(message: SwapMessage) -> bytes:
    """Return the bytes that are signed and sent: 87 and the memo.

    Raises:
        MalformedMessageError: a field is outside its range; nothing may be signed.
    """
    swap = message.swap
    memo = f"{swap.order_id}:{swap.attempt}"
    if not _MEMO.fullmatch(memo):
        raise MalformedMessageError(f"the memo {memo!r} is not an order id and an attempt from 1 to 99")
    if not (0 < swap.amount <= MAX_UNITS and 0 < message.limit <= MAX_UNITS):
        raise MalformedMessageError("amount and limit must be from 1 to 2^64 − 1")
    if len(message.payer) != 32 or len(message.blockhash) != 32 or message.venue not in VENUES:
        raise MalformedMessageError("payer and blockhash must have 32 bytes, the venue must be known")
    return _HEAD.pack(
        _VERSION,
        message.payer,
        message.blockhash,
        VENUES.index(message.venue),
        TOKENS.index(swap.base),
        TOKENS.index(swap.quote),
        _flags(swap),
        swap.amount,
        message.limit,
        len(memo),
    ) + memo.encode("ascii")


@lru_cache(maxsize=4096)
def decode(data: bytes) -> SwapMessage:
    """Return what :func:`encode` was given.

    Raises:
        MalformedMessageError: the bytes are not exactly what ``encode`` makes of any message.
    """
    if len(data) < _HEAD.size:
        raise MalformedMessageError(f"{len(data)} bytes are too few for a swap message")
    version, payer, blockhash, venue, base, quote, flags, amount, limit, memo_size = _HEAD.unpack_from(data)
    memo = _MEMO.fullmatch(data[_HEAD.size :].decode("latin-1"))
    if version != _VERSION or memo is None or len(data) != _HEAD.size + memo_size:
        raise MalformedMessageError("unknown version, or a memo that is not an order id and an attempt")
    if venue >= len(VENUES) or max(base, quote) >= len(TOKENS):
        raise MalformedMessageError("unknown venue or token")
    swap = Swap(
        order_id=memo[1],
        attempt=int(memo[2]),
        side="buy" if flags & _BUY else "sell",
        base=TOKENS[base],
        quote=TOKENS[quote],
        amount=amount,
    )
    try:
        pair_of(swap.base, swap.quote)
    except UnknownPairError as error:
        raise MalformedMessageError(str(error)) from error
    if flags != _flags(swap) or not amount or not limit:
        raise MalformedMessageError("flags do not match the swap, or amount or limit is 0")
    return SwapMessage(payer=payer, blockhash=blockhash, venue=VENUES[venue], swap=swap, limit=limit)


def _flags(swap: Swap) -> int:
    paid, received = (swap.base, swap.quote) if swap.side == "sell" else (swap.quote, swap.base)
    flags = _BUY if swap.side == "buy" else 0
    if paid == SOL:
        flags |= _WRAP
    if received == SOL:
        flags |= _UNWRAP
    return flags


def steps(message: SwapMessage) -> tuple[str, ...]:
    """Return the message's instructions in words, in order; wrapping and unwrapping SOL included."""
    swap, flags = message.swap, _flags(message.swap)
    amount = f"{format_units(swap.amount, swap.base.decimals)} {swap.base.symbol}"
    limit = f"{format_units(message.limit, swap.quote.decimals)} {swap.quote.symbol}"
    listed: list[str] = []
    if flags & (_WRAP | _UNWRAP):
        listed.append("create the wrapped SOL account, if there is none")
    if flags & _WRAP:
        listed += [f"transfer {amount if swap.side == 'sell' else limit} into it", "sync native (wrap)"]
    if swap.side == "sell":
        listed.append(f"swap exactly {amount} for at least {limit} on {message.venue}")
    else:
        listed.append(f"swap at most {limit} for exactly {amount} on {message.venue}")
    if flags & (_WRAP | _UNWRAP):
        listed.append("close the wrapped SOL account (unwrap what it holds, get its rent back)")
    listed.append(f"memo {swap.order_id}:{swap.attempt}")
    return tuple(listed)


def verify(message: bytes, signature: bytes) -> None:
    """Check that the payer named in ``message`` made ``signature``.

    Raises:
        MalformedMessageError: no payer can be read.
        InvalidSignatureError: it did not.
    """
    if len(message) < _HEAD.size:
        raise MalformedMessageError(f"{len(message)} bytes are too few for a swap message")
    try:
        Ed25519PublicKey.from_public_bytes(message[1:33]).verify(signature, message)
    except InvalidSignature as error:
        raise InvalidSignatureError("the payer did not sign this message") from error


def tx_id(signature: bytes) -> str:
    """Return the transaction's id: its signature in base 58, known before it is sent."""
    return base58(signature)


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

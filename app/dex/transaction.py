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
from app.dex.tokens import LAUNCHED_MAX, SOL, TOKENS, Token, is_launched_token, launch_number, launch_token, pair_of
from app.dex.tokens import base58 as base58
from app.dex.tokens import from_base58 as from_base58
from app.dex.venue import VENUES, Swap
from app.orders.money import MAX_UNITS, format_units

SIGNATURE_BYTES: Final = 64
_VERSION: Final = 2
# version, payer, blockhash, venue, base, quote, flags, amount, limit, launch slot (0: none), memo length; the memo
# follows. A token is its index in TOKENS, a launched one its number above _FIRST_LAUNCHED.
_HEAD: Final = Layout(">B32s32sBHHBQQQB")
_FIRST_LAUNCHED: Final = 1_000
_SLOT_MAX: Final = (1 << 64) - 1
_BUY, _WRAP, _UNWRAP = 1, 2, 4
_MEMO: Final = re.compile(r"([!-~]{1,64}):([1-9][0-9]?)", re.ASCII)


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
    """Return the bytes that are signed and sent: 96 and the memo.

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
    _check_launch_slot(swap)
    return _HEAD.pack(
        _VERSION,
        message.payer,
        message.blockhash,
        VENUES.index(message.venue),
        _token_number(swap.base),
        _token_number(swap.quote),
        _flags(swap),
        swap.amount,
        message.limit,
        swap.launch_slot or 0,
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
    version, payer, blockhash, venue, base, quote, flags, amount, limit, launch_slot, memo_size = _HEAD.unpack_from(
        data
    )
    memo = _MEMO.fullmatch(data[_HEAD.size :].decode("latin-1"))
    if version != _VERSION or memo is None or len(data) != _HEAD.size + memo_size:
        raise MalformedMessageError("unknown version, or a memo that is not an order id and an attempt")
    if venue >= len(VENUES):
        raise MalformedMessageError("unknown venue")
    swap = Swap(
        order_id=memo[1],
        attempt=int(memo[2]),
        side="buy" if flags & _BUY else "sell",
        base=_numbered_token(base),
        quote=_numbered_token(quote),
        amount=amount,
        launch_slot=launch_slot or None,
    )
    try:
        pair_of(swap.base, swap.quote)
    except UnknownPairError as error:
        raise MalformedMessageError(str(error)) from error
    if flags != _flags(swap) or not amount or not limit:
        raise MalformedMessageError("flags do not match the swap, or amount or limit is 0")
    _check_launch_slot(swap)
    return SwapMessage(payer=payer, blockhash=blockhash, venue=VENUES[venue], swap=swap, limit=limit)


def _token_number(token: Token) -> int:
    launched = launch_number(token)
    if launched is not None:
        return _FIRST_LAUNCHED + launched
    if token not in TOKENS:
        raise MalformedMessageError(f"{token.symbol} is not a token that messages can name")
    return TOKENS.index(token)


def _numbered_token(number: int) -> Token:
    if number < len(TOKENS):
        return TOKENS[number]
    if 1 <= number - _FIRST_LAUNCHED <= LAUNCHED_MAX:
        return launch_token(number - _FIRST_LAUNCHED)
    raise MalformedMessageError(f"no token has the number {number}")


def _check_launch_slot(swap: Swap) -> None:
    slot = swap.launch_slot
    launched = is_launched_token(swap.base) or is_launched_token(swap.quote)
    if not (slot is not None and 0 < slot <= _SLOT_MAX if launched else slot is None):
        raise MalformedMessageError("a launched token's swap names the slot of its launch, no other swap names one")


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


def instructions(swap: Swap) -> tuple[str, ...]:
    """Return the instructions of the swap's transaction as fixed words, in order; :func:`steps` has the amounts.

    A sell that pays SOL wraps its amount, a buy that pays SOL the most that it may cost.
    """
    flags = _flags(swap)
    words = ["create_wsol"] if flags & (_WRAP | _UNWRAP) else []
    if flags & _WRAP:
        words += ["transfer", "sync_native"]
    words.append("swap")
    if flags & (_WRAP | _UNWRAP):
        words.append("close_wsol")
    return (*words, "memo")


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

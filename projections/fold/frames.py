"""Published events as the projections read them: the envelope, and the payload fields that read models are made of."""

from typing import Final, Literal

import msgspec
from msgspec import Struct

from projections.errors import FrameError


class _Published(Struct, frozen=True, gc=False, rename="camel"):
    """Part of a published event: camelCase, absent fields omitted, fields unknown here skipped."""


class Meta(_Published, frozen=True, gc=False):
    """What a frame says of itself."""

    type: str
    hash: str
    prev: str | None = None
    client: str | None = None


class Chosen(_Published, frozen=True, gc=False):
    """The route of an attempt."""

    venue: str


class Failure(_Published, frozen=True, gc=False):
    """Why an attempt, or the order, ended without a swap."""

    code: str
    message: str


class Receipt(_Published, frozen=True, gc=False):
    """What the chain says was exchanged; decimal text in the unit of each asset, the network fee in SOL."""

    venue: str
    amount_in: str
    amount_out: str
    fee: str
    network_fee: str


class Frame(_Published, frozen=True, gc=False):
    """A published event: the envelope, and the payload fields that the read model is made of."""

    event: str
    status: str
    order_id: str
    seq: int
    at: str
    meta: Meta
    side: Literal["buy", "sell"] | None = None
    base_asset: str | None = None
    quote_asset: str | None = None
    amount: str | None = None
    decimals: tuple[int, int] | None = None
    order_type: str | None = None
    slippage_bps: int | None = None
    limit_price: str | None = None
    time_in_force: str | None = None
    expire_at: str | None = None
    idempotency_key: str | None = None
    fingerprint: str | None = None
    attempt: int | None = None
    chosen: Chosen | None = None
    tx_id: str | None = None
    receipt: Receipt | None = None
    error: Failure | None = None
    code: str | None = None
    message: str | None = None


_decode: Final = msgspec.json.Decoder(Frame).decode


def decode_frame(data: bytes | str, name: str) -> Frame:
    """Return the frame that ``data`` holds.

    Args:
        data: JSON, canonical or as PostgreSQL spells it.
        name: what an error calls the event.

    Raises:
        FrameError: not a published event.
    """
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FrameError(name, str(error)) from None

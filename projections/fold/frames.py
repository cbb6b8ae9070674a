"""Published events as the projections read them: the envelope, and the payload fields that read models are made of."""

from collections.abc import Sequence
from typing import Final, Literal

import msgspec
from msgspec import Struct

from eventstore.ids import event_id
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
_decode_all: Final = msgspec.json.Decoder(list[Frame]).decode


TIME_CHARACTERS: Final = len("YYYY-MM-DDThh:mm:ss.ffffffZ")


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


def decode_frames(datas: Sequence[bytes]) -> list[Frame] | None:
    """Return the frames of ``datas``, in order, at half the cost of decoding each; None where that is not possible.

    Damaged events could change their neighbours' places: compare each frame with what is known of its event.
    """
    try:
        frames = _decode_all(b"[%b]" % b",".join(datas))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return frames if len(frames) == len(datas) else None


def read_event(order_id: str, version: int, anchor: str, data: bytes | str) -> Frame | str:
    """Return the frame that ``data`` holds, or why it is not that of the event that log and archive take it for.

    Args:
        anchor: the hash of that event, or its first digits.
    """
    try:
        frame = decode_frame(data, event_id(order_id, version))
    except FrameError as error:
        return error.problem
    return contradiction(order_id, version, anchor, frame) or frame


def contradiction(order_id: str, version: int, anchor: str, frame: Frame) -> str | None:
    """Return how a frame contradicts what log or archive say of it: order, version, hash, a time; None where not."""
    if frame.order_id != order_id or frame.seq != version:
        return f"says it is {event_id(frame.order_id, frame.seq)}"
    if not frame.meta.hash.startswith(anchor):
        return f"has hash {frame.meta.hash}, its log entry {anchor}"
    if len(frame.at) != TIME_CHARACTERS or frame.at[-1] != "Z":
        # PostgreSQL would read much else as a time, such as "yesterday".
        return f"has no time: {frame.at[:TIME_CHARACTERS]!r}"
    return None

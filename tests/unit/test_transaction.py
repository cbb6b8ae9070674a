"""The simulated transaction: its bytes, its signature, its id, and what it says about wrapped SOL."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dex.errors import InvalidSignatureError, MalformedMessageError
from app.dex.tokens import JUP, LAUNCHED_MAX, PAIRS, SOL, USDC, Pair, Token, launch_token
from app.dex.transaction import (
    SwapMessage,
    Wallet,
    base58,
    decode,
    encode,
    from_base58,
    instructions,
    steps,
    tx_id,
    verify,
)
from app.dex.venue import VENUES, Swap
from app.orders.events import Side

WALLET = Wallet("seed")
PAYER = "98243acad932b02dd149e4459966597c2030a9ac2d2baad6498afbb3e6655e98"
ORDER_ID = "01JABCDEFGHJKMNPQRSTVWXYZ0-03"


def message(
    *,
    order_id: str = ORDER_ID,
    attempt: int = 1,
    side: Side = "sell",
    base: Token = SOL,
    quote: Token = USDC,
    amount: int = 1_500_000_000,
    limit: int = 244_000_000,
    venue: str = "meteora",
    launch_slot: int | None = None,
) -> SwapMessage:
    swap = Swap(
        order_id=order_id,
        attempt=attempt,
        side=side,
        base=base,
        quote=quote,
        amount=amount,
        launch_slot=launch_slot,
    )
    return SwapMessage(payer=WALLET.address, blockhash=bytes(range(32)), venue=venue, swap=swap, limit=limit)


amounts = st.integers(1, (1 << 64) - 1)
launches = st.tuples(st.integers(1, LAUNCHED_MAX).map(lambda number: Pair(launch_token(number), SOL)), amounts)
messages = st.builds(
    lambda traded, flip, **rest: message(
        base=traded[0].quote if flip else traded[0].base,
        quote=traded[0].base if flip else traded[0].quote,
        launch_slot=traded[1],
        **rest,
    ),
    st.one_of(st.tuples(st.sampled_from(PAIRS), st.none()), launches),
    st.booleans(),
    order_id=st.from_regex(r"\A[0-9A-Z]{1,26}-[0-9]{2}\Z"),
    attempt=st.integers(1, 99),
    side=st.sampled_from(["buy", "sell"]),
    amount=amounts,
    limit=amounts,
    venue=st.sampled_from(VENUES),
)


@given(messages)
def test_a_message_is_read_back_as_it_was_written(written: SwapMessage) -> None:
    assert decode(encode(written)) == written


def test_a_message_has_at_most_130_bytes() -> None:
    assert len(encode(message(attempt=99))) == 128


def test_a_message_has_the_same_bytes_in_every_version() -> None:
    venue, base, quote, flags = "01", "0000", "0001", "02"
    amount, limit, launch_slot = "0000000059682f00", "000000000e8b2500", "0000000000000000"
    fields = ["02", PAYER, bytes(range(32)).hex(), venue, base, quote, flags, amount, limit, launch_slot, "1f"]
    assert encode(message()) == bytes.fromhex("".join(fields)) + f"{ORDER_ID}:1".encode()


def test_a_message_of_a_launched_token_has_its_number_above_1000_and_its_launch_slot() -> None:
    sent = encode(message(base=launch_token(7), quote=SOL, launch_slot=11_800))
    assert sent[66:70].hex() == "03ef0000"
    assert sent[87:95].hex() == "0000000000002e18"
    assert len(launch_token(LAUNCHED_MAX).symbol) == 8
    assert encode(message(base=launch_token(LAUNCHED_MAX), quote=SOL, launch_slot=1))[66:68].hex() == "ee48"


@given(messages, st.data())
def test_bytes_with_any_bit_flipped_are_refused(written: SwapMessage, data: st.DataObject) -> None:
    sent = bytearray(encode(written))
    signature = WALLET.sign(bytes(sent))
    bit = data.draw(st.integers(0, len(sent) * 8 - 1))
    sent[bit // 8] ^= 1 << bit % 8
    with pytest.raises(InvalidSignatureError):
        verify(bytes(sent), signature)


@given(
    st.one_of(
        st.binary(max_size=140),
        messages.map(encode).flatmap(
            lambda sent: st.sampled_from(
                [
                    sent[:-1],
                    sent + b"0",
                    sent[:30],
                    b"\x01" + sent[1:],
                    b"\x03" + sent[1:],
                    sent[:65] + b"\x09" + sent[66:],
                    sent[:66] + b"\x00\x07" + sent[68:],
                    sent[:66] + b"\x03\xe8" + sent[68:],
                    sent[:68] + b"\xff\xff" + sent[70:],
                ]
            )
        ),
    )
)
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        decode(data)


@pytest.mark.parametrize(
    ("given_message", "slot"), [(message(), 1), (message(base=launch_token(7), quote=SOL, launch_slot=11_800), 0)]
)
def test_a_launch_slot_belongs_to_launched_tokens_and_to_no_other(given_message: SwapMessage, slot: int) -> None:
    sent = bytearray(encode(given_message))
    sent[87:95] = slot.to_bytes(8, "big")
    with pytest.raises(MalformedMessageError, match="launch"):
        decode(bytes(sent))


@pytest.mark.parametrize("field", [slice(71, 79), slice(79, 87)])
def test_a_message_without_amount_or_limit_is_refused(field: slice) -> None:
    sent = bytearray(encode(message()))
    sent[field] = bytes(8)
    with pytest.raises(MalformedMessageError, match="is 0"):
        decode(bytes(sent))


def test_flags_that_contradict_the_swap_are_refused() -> None:
    sent = bytearray(encode(message()))
    sent[70] ^= 2
    with pytest.raises(MalformedMessageError, match="flags"):
        decode(bytes(sent))


def test_a_pair_without_a_pool_is_refused() -> None:
    with pytest.raises(MalformedMessageError, match="no pool"):
        decode(encode(message(base=SOL, quote=SOL)))


@pytest.mark.parametrize(
    "wrong",
    [
        message(amount=0),
        message(amount=1 << 64),
        message(limit=0),
        message(limit=1 << 64),
        message(attempt=0),
        message(order_id=""),
        message(order_id="with space"),
        message(order_id="ö"),
        message(order_id="x" * 65),
        message(venue="orca"),
        message(launch_slot=11_800),
        message(base=launch_token(7), quote=SOL),
        message(base=SOL, quote=launch_token(7)),
        message(base=launch_token(7), quote=SOL, launch_slot=0),
        message(base=launch_token(7), quote=SOL, launch_slot=1 << 64),
        message(base=Token("OTHER", SOL.mint, 9)),
    ],
)
def test_a_message_outside_its_ranges_is_never_encoded(wrong: SwapMessage) -> None:
    with pytest.raises(MalformedMessageError):
        encode(wrong)


def test_a_signature_by_another_wallet_is_refused() -> None:
    sent = encode(message())
    verify(sent, WALLET.sign(sent))
    with pytest.raises(InvalidSignatureError):
        verify(sent, Wallet("other").sign(sent))
    with pytest.raises(InvalidSignatureError):
        verify(sent, b"short")
    with pytest.raises(MalformedMessageError):
        verify(sent[:60], WALLET.sign(sent[:60]))


def test_equal_swaps_of_different_orders_or_attempts_have_different_ids() -> None:
    written = [message(), message(order_id=ORDER_ID[:-1] + "4"), message(attempt=2)]
    assert len({tx_id(WALLET.sign(encode(one))) for one in written}) == 3
    assert WALLET.sign(encode(message())) == Wallet("seed").sign(encode(message()))


def test_base_58_gives_the_known_texts() -> None:
    assert base58(bytes(64)) == "1" * 64
    assert base58(bytes(32)) == "1" * 32
    assert len(base58(b"\xff" * 64)) == 88
    assert len(base58(b"\xff" * 32)) == 44
    assert base58(b"Hello World!") == "2NEpo7TZRRrLZSi2U"


@given(st.binary(max_size=80))
def test_base_58_is_read_back(data: bytes) -> None:
    assert from_base58(base58(data)) == data


def test_a_letter_outside_base_58_is_refused() -> None:
    with pytest.raises(ValueError, match="'l'"):
        from_base58("1l")


CREATE = "create the wrapped SOL account, if there is none"
CLOSE = "close the wrapped SOL account (unwrap what it holds, get its rent back)"


@pytest.mark.parametrize(
    ("given_message", "listed", "words"),
    [
        (
            message(),
            [
                CREATE,
                "transfer 1.5 SOL into it",
                "sync native (wrap)",
                "swap exactly 1.5 SOL for at least 244 USDC on meteora",
                CLOSE,
            ],
            ("create_wsol", "transfer", "sync_native", "swap", "close_wsol", "memo"),
        ),
        (
            message(side="buy"),
            [CREATE, "swap at most 244 USDC for exactly 1.5 SOL on meteora", CLOSE],
            ("create_wsol", "swap", "close_wsol", "memo"),
        ),
        (
            message(side="buy", base=USDC, quote=SOL, amount=244_000_000, limit=1_500_000_000),
            [
                CREATE,
                "transfer 1.5 SOL into it",
                "sync native (wrap)",
                "swap at most 1.5 SOL for exactly 244 USDC on meteora",
                CLOSE,
            ],
            ("create_wsol", "transfer", "sync_native", "swap", "close_wsol", "memo"),
        ),
        (
            message(base=JUP, amount=2_000_000, limit=1_000_000, venue="raydium"),
            ["swap exactly 2 JUP for at least 1 USDC on raydium"],
            ("swap", "memo"),
        ),
    ],
)
def test_wrapping_sol_is_listed_where_sol_is_paid_or_received(
    given_message: SwapMessage, listed: list[str], words: tuple[str, ...]
) -> None:
    assert steps(given_message) == (*listed, f"memo {ORDER_ID}:1")
    assert instructions(given_message.swap) == words


@given(messages)
def test_the_words_are_as_many_as_the_steps(written: SwapMessage) -> None:
    assert len(instructions(written.swap)) == len(steps(written))

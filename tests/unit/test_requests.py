"""Orders and messages as clients write them: what is accepted, and what each refusal says."""

import json
from typing import Any

import pytest

from app.api.orders.request import OrderRequest, read_order
from app.api.problems import ProblemError
from app.api.requests import BODY_BYTES_MAX, parse_object, read_header_key
from app.api.resume import After
from app.api.streaming.messages import Cancel, Ping, Submit, Subscribe, Unsubscribe, message_id
from app.api.streaming.messages import read_message as read_message_at
from app.api.streaming.scopes import FromStart, OrderScope
from app.api.streaming.subscriptions import Wanted
from eventstore.ids import Cursor
from tests.builders import stream_id
from tests.clocks import START_US

ORDER = {"side": "buy", "baseAsset": "SOL", "quoteAsset": "USDC", "amount": 10}
SWAP = {"tokenIn": "SOL", "tokenOut": "USDC", "amount": "1.5"}


def order(text: str, header_key: str | None = None) -> OrderRequest:
    return read_order(parse_object(text), header_key, now_us=START_US)


def read_message(members: dict[str, Any]) -> object:
    return read_message_at(members, now_us=START_US)


def with_fields(**fields: Any) -> str:
    return json.dumps({**ORDER, **fields})


def refusal(text: str, header_key: str | None = None) -> ProblemError:
    with pytest.raises(ProblemError) as caught:
        order(text, header_key)
    return caught.value


def test_json_parsing_of_an_order_by_side() -> None:
    request = order('{"clientId":"user01","side":"buy","baseAsset":"SOL","quoteAsset":"USDC","amount":10}')
    assert request.client == "user01"
    command = request.command
    assert (command.side, command.base_asset, command.quote_asset) == ("buy", "SOL", "USDC")
    assert (command.base_decimals, command.quote_decimals, command.amount) == (9, 6, 10_000_000_000)
    assert command.slippage_bps == 50
    assert (command.idempotency_key, command.fingerprint) == (None, None)


def test_json_parsing_of_a_swap_makes_it_a_sell_of_the_token_in() -> None:
    request = order('{"tokenIn":"USDC","tokenOut":"SOL","amountIn":"2.5","orderType":"MARKET","slippageBps":0}')
    command = request.command
    assert (command.side, command.base_asset, command.quote_asset) == ("sell", "USDC", "SOL")
    assert (command.amount, command.slippage_bps) == (2_500_000, 0)


def test_a_token_may_be_named_by_its_mint() -> None:
    mint = "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v"
    assert order(with_fields(quoteAsset=mint)).command.quote_asset == "USDC"


def test_a_number_keeps_every_digit_it_is_written_with() -> None:
    text = '{"side":"sell","baseAsset":"SOL","quoteAsset":"USDC","amount":12345678901.123456789}'
    assert order(text).command.amount == 12_345_678_901_123_456_789


@pytest.mark.parametrize("amount", ['"10.0"', "10.0", '"10"', "10"])
def test_text_and_number_spell_the_same_amount(amount: str) -> None:
    text = f'{{"side":"sell","baseAsset":"SOL","quoteAsset":"USDC","amount":{amount}}}'
    assert order(text).command.amount == 10_000_000_000


def test_null_means_absent() -> None:
    assert order(with_fields(clientId=None, slippageBps=None)) == order(with_fields())


@pytest.mark.parametrize(
    "spelled,bps",
    [
        ({"slippage_bps": 7}, 7),
        ({"maxSlippageBps": 10_000}, 10_000),
        ({"max_slippage_bps": 0}, 0),
        ({"slippagePercent": 0.5}, 50),
        ({"slippage_percent": "1.25"}, 125),
        ({"slippagePct": 100}, 10_000),
        ({"slippage_pct": "0.50"}, 50),
        ({"slippage": "0.5%"}, 50),
        ({"slippageTolerance": "1 %"}, 100),
        ({"maxSlippage": "50bps"}, 50),
        ({"max_slippage": "0 bps"}, 0),
    ],
)
def test_slippage_is_understood_in_every_spelling_whose_unit_is_certain(spelled: dict[str, Any], bps: int) -> None:
    assert order(with_fields(**spelled)).command.slippage_bps == bps


REFUSED_FIELDS = [
    (with_fields(amount="-1"), "/amount", "must be greater than zero"),
    (with_fields(amount=-1), "/amount", "must be greater than zero"),
    (with_fields(amount=0), "/amount", "must be greater than zero"),
    (with_fields(amount="0.0"), "/amount", "must be greater than zero"),
    (with_fields(amount="1e1"), "/amount", 'must be a plain decimal such as "1.5", without sign, exponent or spaces'),
    (with_fields(amount=1e30), "/amount", 'must be a plain decimal such as "1.5", without sign, exponent or spaces'),
    (with_fields(amount="NaN"), "/amount", 'must be a plain decimal such as "1.5", without sign, exponent or spaces'),
    (with_fields(amount="0.0000000001"), "/amount", "must have at most 9 digits after the decimal point"),
    (with_fields(amount="18446744073.709551616"), "/amount", "must be at most 18446744073.709551615"),
    (with_fields(amount=True), "/amount", 'must be a decimal such as "1.5", as text or as a number'),
    (with_fields(amount=[1]), "/amount", 'must be a decimal such as "1.5", as text or as a number'),
    (with_fields(amount=None), "/amount", 'is missing: give a decimal such as "1.5"'),
    (with_fields(amountIn=1), "/amountIn", "does not belong here: give either side, baseAsset, "
     "quoteAsset and amount, or tokenIn, tokenOut and amount"),
    (with_fields(side="hold"), "/side", 'must be "buy" or "sell"'),
    (with_fields(side=1), "/side", 'must be "buy" or "sell"'),
    (with_fields(baseAsset="DOGE"), "/baseAsset",
     "is not a known token: give one of SOL, USDC, USDT, BONK, JUP, RAY, ETH, a launched one such as NEW1, "
     "or its mint"),
    (with_fields(baseAsset="sol"), "/baseAsset",
     "is not a known token: give one of SOL, USDC, USDT, BONK, JUP, RAY, ETH, a launched one such as NEW1, "
     "or its mint"),
    (with_fields(baseAsset=7), "/baseAsset", "must be text of 1 to 64 printable characters"),
    (with_fields(quoteAsset="SOL"), "/quoteAsset", "must be another token than baseAsset"),
    (with_fields(baseAsset="BONK", quoteAsset="JUP"), "/quoteAsset", "no pool trades BONK against JUP; the pools are "
     "SOL/USDC, SOL/USDT, USDC/USDT, JUP/USDC, RAY/USDC, BONK/USDC, ETH/USDC, JUP/SOL, RAY/SOL, BONK/SOL, ETH/SOL, "
     "in either direction"),
    (with_fields(slippageBps=10_001), "/slippageBps", "must be a whole number from 0 to 10000"),
    (with_fields(slippageBps=-1), "/slippageBps", "must be a whole number from 0 to 10000"),
    (with_fields(slippageBps=0.5), "/slippageBps", "must be a whole number from 0 to 10000"),
    (with_fields(slippageBps="50"), "/slippageBps", "must be a whole number from 0 to 10000"),
    (with_fields(slippage=0.01), "/slippage",
     "is refused because clients mean fractions or percents by it: use slippageBps, 1/100 of a percent, "
     'or write the unit, as in "0.5%" or "50 bps"'),
    (with_fields(slippageTolerance="0.5"), "/slippageTolerance",
     "is refused because clients mean fractions or percents by it: use slippageBps, 1/100 of a percent, "
     'or write the unit, as in "0.5%" or "50 bps"'),
    (with_fields(slippage="0.123%"), "/slippage",
     "must be from 0 to 100 percent, with at most two digits after the decimal point"),
    (with_fields(maxSlippage="100.01%"), "/maxSlippage",
     "must be from 0 to 100 percent, with at most two digits after the decimal point"),
    (with_fields(max_slippage="10001 bps"), "/max_slippage", "must be from 0 to 10000 bps"),
    (with_fields(slippagePercent=-1), "/slippagePercent",
     "must be from 0 to 100 percent, with at most two digits after the decimal point"),
    (with_fields(slippage_bps=0.5), "/slippage_bps", "must be a whole number from 0 to 10000"),
    (with_fields(slippageBps=5, slippage="5 bps"), "/slippage",
     "must not be given beside slippageBps: both mean the same"),
    (with_fields(orderType="stop"), "/orderType", 'must be "market", "limit" or "sniper"'),
    (with_fields(orderType=["market"]), "/orderType", 'must be "market", "limit" or "sniper"'),
    (with_fields(clientId=""), "/clientId", "must be text of 1 to 64 printable characters"),
    (with_fields(clientId="x" * 65), "/clientId", "must be text of 1 to 64 printable characters"),
    (with_fields(userId="a\nb"), "/clientId", "must be text of 1 to 64 printable characters"),
    (with_fields(clientId="a", userId="a"), "/userId", "must not be given beside clientId: both mean the same"),
    (with_fields(idempotencyKey=5), "/idempotencyKey", "must be text of 1 to 255 printable characters"),
    (with_fields(slipageBps=5), "/slipageBps", "is not a field here; did you mean slippageBps?"),
    (with_fields(token_in="SOL"), "/token_in", "does not belong here: give either side, baseAsset, "
     "quoteAsset and amount, or tokenIn, tokenOut and amount"),
    (with_fields(tokenInn="SOL"), "/tokenInn", "is not a field here; did you mean tokenIn?"),
    *((with_fields(**{name: "SOL"}), f"/{name}", "is refused because it does not say what is paid for what: "
       "give side, baseAsset and quoteAsset") for name in ("symbol", "token", "tokenAddress", "pair")),
    (json.dumps({**SWAP, "inputMint": "SOL"}), "/inputMint", "must not be given beside tokenIn: both mean the same"),
    (with_fields(baseToken="SOL"), "/baseToken", "must not be given beside baseAsset: both mean the same"),
    (json.dumps({**SWAP, "amount": "1.1234567890"}), "/amount", "must have at most 9 digits after the decimal point"),
    (json.dumps({**SWAP, "tokenOut": "SOL"}), "/tokenOut", "must be another token than tokenIn"),
    (json.dumps({**SWAP, "amountIn": "2"}), "/amountIn", "must not be given beside amount: both mean the same"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "pointer", "message"), REFUSED_FIELDS)
def test_a_bad_field_is_named_with_what_it_accepts(text: str, pointer: str, message: str) -> None:
    problem = refusal(text)
    assert problem.code == "invalid_order"
    assert [(error.pointer, error.message) for error in problem.errors] == [(pointer, message)]
    assert pointer[1:] in problem.detail and message in problem.detail


def test_an_empty_object_lists_everything_that_is_missing() -> None:
    problem = refusal("{}")
    assert [error.pointer for error in problem.errors] == ["/side", "/baseAsset", "/quoteAsset", "/amount"]
    assert all("is missing" in error.message for error in problem.errors)


def test_all_bad_fields_of_one_body_are_reported_together() -> None:
    problem = refusal(with_fields(side="x", baseAsset="x", amount=None, slippageBps=-1, colour="red"))
    pointers = [error.pointer for error in problem.errors]
    assert pointers == ["/side", "/baseAsset", "/amount", "/slippageBps", "/colour"]


def test_the_list_of_errors_is_bounded() -> None:
    problem = refusal(json.dumps({f"field{number}": 1 for number in range(1000)}))
    assert len(problem.errors) == 16


def test_an_unknown_name_cannot_break_the_answer() -> None:
    problem = refusal(with_fields(**{"a/b~c é": 1}))
    assert problem.errors[0].pointer == "/a~1b~0c \\xe9"


MALFORMED = [
    ("", "Expecting value (line 1, column 1)"),
    ("{", "Expecting property name enclosed in double quotes (line 1, column 2)"),
    ('{"side":\n"buy",}', "(line 2, column 7)"),
    ('{"amount":NaN}', "NaN is not a JSON value"),
    ('{"amount":-Infinity}', "-Infinity is not a JSON value"),
    ('{"amount":01}', "(line 1, column 12)"),
    ('{"side":"buy","side":"sell"}', "the name /side occurs twice in one object"),
    ('{"side":"b\x00y"}', "Invalid control character"),
    ("[1]", "must be an object"),
    ('"text"', "must be an object"),
    ("12", "must be an object"),
    (b'{"side":"\xff"}', "is not UTF-8 at byte 10"),
    (b'\xef\xbb\xbf{"side":"buy"}', "line 1, column 1"),
]


@pytest.mark.parametrize(("body", "part"), MALFORMED)
def test_json_parsing_names_the_place_where_a_body_is_malformed(body: str | bytes, part: str) -> None:
    with pytest.raises(ProblemError) as caught:
        parse_object(body)
    assert caught.value.code == "json_malformed"
    assert part in caught.value.detail


BAD_TEXTS = [
    ('{"clientId":"a\\u0000b"}', "/clientId"),
    ('{"clientId":"a\\ud800b"}', "/clientId"),
    ('{"clientId":"\\udc00\\ud800"}', "/clientId"),
    ('{"nested":[{"deep":"\\udfff"}]}', "/nested/0/deep"),
    ('{"na\\ud800me":1}', "/na\\ud800me"),
]


@pytest.mark.parametrize(("text", "pointer"), BAD_TEXTS)
def test_json_parsing_refuses_text_that_no_database_keeps(text: str, pointer: str) -> None:
    with pytest.raises(ProblemError) as caught:
        parse_object(text)
    assert caught.value.errors[0].pointer == pointer
    assert caught.value.errors[0].message == "must not contain U+0000 or unpaired surrogates"


def test_a_surrogate_pair_is_one_character() -> None:
    assert parse_object('{"clientId":"\\ud83d\\ude00"}') == {"clientId": "\N{GRINNING FACE}"}


def nested(depth: int) -> str:
    return '{"a":' * (depth - 1) + "{}" + "}" * (depth - 1)


def test_json_parsing_bounds_the_nesting() -> None:
    parse_object(nested(16))
    for text in (nested(17), "[" * BODY_BYTES_MAX, '{"a":' * 10_000):
        with pytest.raises(ProblemError) as caught:
            parse_object(text)
        assert caught.value.code == "json_too_deep"


def test_brackets_within_text_are_not_nesting() -> None:
    assert parse_object(json.dumps({"a": '[{"' * 100})) == {"a": '[{"' * 100}


def test_a_huge_number_is_no_work() -> None:
    problem = refusal(f'{{"tokenIn":"SOL","tokenOut":"USDC","amount":{"9" * 60_000},"slippageBps":{"9" * 5_000}}}')
    assert [error.pointer for error in problem.errors] == ["/amount", "/slippageBps"]


HEADERS = [
    ([], None),
    (["key-1"], "key-1"),
    (['"key-1"'], "key-1"),
    (['"say \\"hi\\""'], 'say "hi"'),
    (['"a\\\\b"'], "a\\b"),
    (['"key-1";x=1; y'], "key-1"),
    (["same", "same"], "same"),
]


@pytest.mark.parametrize(("values", "key"), HEADERS)
def test_the_idempotency_header_may_be_quoted_or_bare(values: list[str], key: str | None) -> None:
    assert read_header_key(values) == key


BAD_HEADERS = [
    *([""], ['""'], ["x" * 256], ["a", "b"], ["a\tb"], ["caf\xe9"]),
    *(['"a'], ['"a"b"'], ['"a\\b"'], ['"'], ['"a" "b"'], ['"a";1'], ['"a\tb"']),
]


@pytest.mark.parametrize("values", BAD_HEADERS)
def test_a_bad_idempotency_header_is_refused(values: list[str]) -> None:
    with pytest.raises(ProblemError, match="Idempotency-Key must be given once, with 1 to 255 printable"):
        read_header_key(values)


def test_header_and_body_may_agree_on_the_key_but_not_differ() -> None:
    assert order(with_fields(clientOrderId="k"), "k").command.idempotency_key == "k"
    assert order(with_fields(), "k").command.idempotency_key == "k"
    problem = refusal(with_fields(idempotencyKey="other"), "k")
    assert problem.errors[0].message == "must be the same as in the header Idempotency-Key, or left out"


def test_the_fingerprint_is_that_of_the_meaning_not_of_the_spelling() -> None:
    def fingerprint(**fields: Any) -> str | None:
        return order(with_fields(idempotencyKey="k", **fields)).command.fingerprint

    first = fingerprint()
    assert first is not None and len(first) == 32
    assert fingerprint(amount="10.000", type="Market", slippageBps=50) == first
    for other in ({"amount": 11}, {"side": "sell"}, {"slippageBps": 49}, {"clientId": "c"}, {"quoteAsset": "USDT"}):
        assert fingerprint(**other) != first


def test_messages_are_told_apart() -> None:
    order_id = stream_id(number=7)

    def one(after: After) -> Subscribe:
        return Subscribe(Wanted(scope=OrderScope(order_id), start=after))

    cases: list[tuple[dict[str, Any], object]] = [
        ({"type": "subscribe", "orderId": order_id}, Subscribe(Wanted(scope=OrderScope(order_id), start=FromStart()))),
        ({"orderId": order_id, "after": 3}, one(3)),
        ({"orderId": order_id, "after": "3"}, one(3)),
        ({"orderId": order_id, "lastEventId": f"{order_id}/4"}, one(4)),
        ({"orderId": order_id, "after": "1-17-0123abcd", "id": 1}, one(Cursor(1, 17, "0123abcd"))),
        ({"type": "unsubscribe", "orderId": order_id}, Unsubscribe(order_id)),
        ({"type": "cancel", "orderId": order_id, "id": 2}, Cancel(order_id)),
        ({"type": "ping", "id": "x"}, Ping()),
    ]
    for members, message in cases:
        assert read_message(parse_object(json.dumps(members))) == message
    for members in (ORDER, SWAP, {**ORDER, "type": "market", "id": 5}):
        assert isinstance(read_message(parse_object(json.dumps(members))), Submit)


BAD_MESSAGES = [
    ({"type": "dance"}, "invalid_message", "/type"),
    ({"type": 5}, "invalid_message", "/type"),
    ({"type": "subscribe"}, "invalid_message", "/orderId"),
    ({"type": "subscribe", "orderId": 5}, "invalid_message", "/orderId"),
    ({"orderId": "x" * 29, "after": True}, "invalid_message", "/after"),
    ({"orderId": stream_id(number=7), "after": -1}, "after_malformed", "/after"),
    ({"orderId": stream_id(number=7), "after": 1.5}, "after_malformed", "/after"),
    ({"orderId": stream_id(number=7), "after": "1-1-zz"}, "after_malformed", "/after"),
    ({"orderId": stream_id(number=7), "after": f"{stream_id(number=8)}/1"}, "after_malformed", "/after"),
    ({"orderId": stream_id(number=7), "side": "buy"}, "invalid_message", "/side"),
    ({"type": "unsubscribe", "orderId": stream_id(number=7), "after": 1}, "invalid_message", "/after"),
    ({"type": "cancel"}, "invalid_message", "/orderId"),
    ({"type": "cancel", "orderId": "x"}, "order_id_malformed", None),
    ({"type": "cancel", "orderId": stream_id(number=7), "after": 1}, "invalid_message", "/after"),
    ({"type": "ping", "noise": 1}, "invalid_message", "/noise"),
    ({"type": "limit"}, "invalid_order", "/side"),
]


@pytest.mark.parametrize(("members", "code", "pointer"), BAD_MESSAGES)
def test_a_bad_message_is_refused_by_field(members: dict[str, Any], code: str, pointer: str | None) -> None:
    with pytest.raises(ProblemError) as caught:
        read_message(parse_object(json.dumps(members)))
    assert caught.value.code == code
    assert pointer is None or caught.value.errors[0].pointer == pointer


@pytest.mark.parametrize("order_id", ["x", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "01ARZ3NDEKTSV4RRFFQ69G5FAV-3", "../etc"])
def test_a_malformed_order_id_is_answered_with_the_form(order_id: str) -> None:
    with pytest.raises(ProblemError, match="26 characters, a hyphen and two digits") as caught:
        read_message({"orderId": order_id})
    assert caught.value.code == "order_id_malformed"


@pytest.mark.parametrize(("text", "expected"), [('{"id":"a b"}', "a b"), ('{"id":7}', 7), ("{}", None)])
def test_a_message_id_is_text_or_a_whole_number(text: str, expected: object) -> None:
    assert message_id(parse_object(text)) == expected


@pytest.mark.parametrize("text", ['{"id":""}', '{"id":1.5}', '{"id":null}', '{"id":[1]}', f'{{"id":"{"x" * 65}"}}'])
def test_a_bad_message_id_is_refused(text: str) -> None:
    with pytest.raises(ProblemError) as caught:
        message_id(parse_object(text))
    assert caught.value.errors[0].pointer == "/id"

"""Parts of access by themselves: keys as texts, buckets, connections, and whom a principal is asked about."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from app.api.access.connections import Connections
from app.api.access.keys import digest_of, id_of, new_key, new_ticket
from app.api.access.limits import BUCKETS_MAX, AccessLimits, Bucket, Buckets
from app.api.access.principal import Grant, Principal
from app.api.problems import Closing, ProblemError


def test_a_key_has_an_id_and_256_random_bits() -> None:
    drawn: list[int] = []

    def entropy(count: int) -> bytes:
        drawn.append(count)
        return bytes([len(drawn)] * count)

    key = new_key(entropy)
    assert key.text == f"otk_{'01' * 6}_{'02' * 32}" and drawn == [6, 32]
    assert (key.id, id_of(key.text), key.digest) == ("01" * 6, "01" * 6, digest_of(key.text))
    assert new_ticket(entropy) == f"ott_{'03' * 32}"


@pytest.mark.parametrize("text", ["", "otk_", f"otk_{'0' * 12}_{'0' * 63}", f"OTK_{'0' * 12}_{'0' * 64}", "x" * 81])
def test_what_has_not_the_form_of_a_key_has_no_id(text: str) -> None:
    assert id_of(text) is None


def test_a_bucket_gives_its_burst_then_its_rate() -> None:
    bucket = Bucket(per_second=2, burst=3, now=10.0)
    assert [bucket.take(10.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert [bucket.take(10.5), bucket.take(10.5)] == [0, 0.5]
    assert [bucket.take(100.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert [bucket.take(100.0, 0.25), bucket.take(100.125, 0.25), bucket.take(100.125, 0.25)] == [0.125, 0, 0.125]


def test_buckets_are_one_for_each_name_and_of_too_many_the_longest_unused_are_forgotten() -> None:
    buckets = Buckets(1, 1, lambda: 0.0)
    assert [buckets.take(name) for name in ("a", "a", "b")] == [0, 1, 0]
    for number in range(BUCKETS_MAX - 1):
        buckets.take(str(number))
    assert (buckets.take("b"), buckets.take("a")) == (1, 0)


class Line:
    """A connection."""

    def __init__(self) -> None:
        self.ended: list[Closing | None] = []

    def end(self, closing: Closing | None) -> None:
        self.ended.append(closing)


def test_a_key_that_ended_while_its_request_was_read_holds_no_connection_open() -> None:
    connections = Connections(AccessLimits(), lambda key_id: key_id == "good")
    line, closing = Line(), Closing(4401, "over")
    with connections.of_key("good", line), connections.of_key(None, Line()):
        connections.end_keys(frozenset({"good", "other"}), closing)
    connections.end_keys(frozenset({"good"}), closing)
    assert line.ended == [closing]
    with pytest.raises(ProblemError, match="opens nothing any more"), connections.of_key("ended", line):
        raise AssertionError("it must not be held open")


@pytest.mark.parametrize(
    ("roles", "client", "members", "placed_for"),
    [
        ({"trader"}, "ann", {}, "ann"),
        ({"trader"}, "ann", {"clientId": "ann"}, "ann"),
        ({"trader"}, "ann", {"clientId": None, "userId": None}, "ann"),
        ({"trader"}, "ann", {"userId": "sam"}, None),
        ({"trader"}, "ann", {"clientId": 7}, None),
        ({"trader", "auditor"}, "ann", {"clientId": "sam"}, None),
        ({"auditor"}, "ann", {}, None),
        ({"admin"}, "ann", {}, "ann"),
        ({"admin"}, "ann", {"userId": "sam"}, "sam"),
        ({"admin"}, None, {"clientId": "sam"}, "sam"),
    ],
)
def test_an_order_is_placed_for_the_client_of_the_key(
    roles: set[str], client: str, members: Mapping[str, Any], placed_for: str | None
) -> None:
    principal = Principal(Grant(key_id="k", client=client, roles=frozenset(roles)))
    order = {"amount": "1", **members}
    if placed_for is None:
        with pytest.raises(ProblemError) as refused:
            principal.claimed(order)
        assert refused.value.code == "forbidden"
        return
    claimed = principal.claimed(order)
    assert claimed["amount"] == "1"
    assert [claimed[name] for name in ("clientId", "userId") if claimed.get(name) is not None] == [placed_for]


def test_an_auditor_is_never_asked_for_an_owner() -> None:
    principal = Principal(Grant(key_id="k", client=None, roles=frozenset({"auditor"})))
    asyncio.run(principal.require_order("01ARZ3NDEKTSV4RRFFQ69G5FAV-03"))
    assert principal.partition is None and principal.narrowed(None) is None and principal.narrowed("sam") == "sam"

"""Orders of every type in PostgreSQL: what they ask for, how they end, and that rows are what their streams say."""

import random
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from msgspec.structs import replace

from app.orders.lifecycle import public_names
from tests.builders import EVERY_EVENT, stream_id
from tests.conftest import accepted, appends, differences, execute, filled, project
from tests.moves import play


def test_order_insert_of_a_limit_order_holds_its_limit_and_its_end(database_url: str) -> None:
    price = "0.000000000000000001"
    first = replace(accepted(), order_type="limit", limit_price=price, expire_at="2027-01-15T09:00:00.000001Z")
    project(database_url, filled(appends(stream_id(), [[first]])))
    columns = "type, limit_price, time_in_force, expire_at"
    end = datetime(2027, 1, 15, 9, 0, 0, 1, tzinfo=UTC)
    assert execute(database_url, f"SELECT {columns} FROM orders") == [("limit", Decimal(price), "GTC", end)]


@pytest.mark.parametrize("reason", ["rejected", "cancelled"])
def test_order_insert_of_an_order_that_ended_unswapped_holds_the_reason(database_url: str, reason: str) -> None:
    (end,) = [event for event in EVERY_EVENT if public_names(event) == (reason, reason)]
    project(database_url, filled(appends(stream_id(), [[accepted()], [end]])))
    code, message = {
        "rejected": ("no_quote", "no venue gave a usable quote"),
        "cancelled": ("requested", "cancelled on request"),
    }[reason]
    columns = "status, failure_code, failure_message, time_in_force"
    assert execute(database_url, f"SELECT {columns} FROM orders") == [(reason, code, message, None)]


def test_orders_of_every_type_are_projected_as_their_streams_say(database_url: str) -> None:
    lives = [play(random.Random(seed), seed % 40 + 1)[0] for seed in range(60)]
    commits = [commit for life in lives if life for commit in appends(stream_id(), [[event] for event in life])]
    store = filled(commits)
    project(database_url, store)
    assert differences(database_url, store) == []
    found = {status for (status,) in execute(database_url, "SELECT DISTINCT status FROM orders")}
    assert found >= {"resting", "cancelled", "expired", "confirmed", "failed"}

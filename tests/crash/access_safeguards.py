"""The safeguards of access: where each one is, how it is taken out, and the test that then fails."""

from typing import Final

from tests.crash.safeguards import Safeguard

_PRINCIPAL: Final = "app/api/access/principal.py"
_KEYRING: Final = "app/api/access/keyring.py"
_TESTS: Final = "tests/integration/test_access_"
_ORDERS: Final = f"{_TESTS}orders.py::test_"
_STREAMS: Final = f"{_TESTS}streams.py::test_"

ACCESS: Final = [
    Safeguard(
        "owner of an order that is followed over a socket",
        "app/api/streaming/deliveries.py",
        "                await self._entry.principal.require_scope(feed.scope)\n",
        "                pass\n",
        f"{_STREAMS}a_trader_follows_its_own_orders_over_a_socket_and_nobody_else_s",
    ),
    Safeguard(
        "owner of an order that is cancelled",
        _PRINCIPAL,
        "        if self.grant.is_admin:\n            return\n        try:",
        "        if self.grant.trades:\n            return\n        try:",
        f"{_ORDERS}a_foreign_order_is_answered_like_a_missing_one",
    ),
    Safeguard(
        "whole key",
        _KEYRING,
        " and hmac.compare_digest(found.hash, digest_of(text))",
        "",
        f"{_ORDERS}whatever_is_no_active_key_opens_nothing",
    ),
    Safeguard(
        "end of what a revoked key had opened",
        _KEYRING,
        "            self._on_end(ended, KEY_ENDED)\n",
        "",
        f"{_STREAMS}revoking_a_key_ends_its_sockets_streams_and_polls_and_no_others",
    ),
    Safeguard(
        "one use of a ticket",
        "projections/queries/keys.py",
        "await connection.scalar(used.returning(api_tickets.c.key_id))",
        "await connection.scalar(select(api_tickets.c.key_id).where(api_tickets.c.hash == digest))",
        f"{_TESTS}tickets.py::test_of_two_processes_that_are_shown_a_ticket_one_takes_it",
    ),
    Safeguard(
        "hello before everything else",
        "app/api/streaming/websocket.py",
        "if self._entry.known is None:\n                await self._introduce",
        'if "hello" in str(received):\n                await self._introduce',
        f"{_STREAMS}a_socket_that_says_anything_else_first_is_closed",
    ),
]

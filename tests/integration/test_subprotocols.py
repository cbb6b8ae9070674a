"""What a client offers as subprotocols, and what it is told."""

import json
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin, Subprotocol

from tests.integration.api import WAIT_SECONDS, Api, hear_close, hear_nothing_more, on_memory

KNOWN = Subprotocol("ordertape.v1")
FOREIGN = [Subprotocol("graphql-ws"), Subprotocol("ordertape.v9")]
LATER = Subprotocol("bearer.dG9rZW4")


def opened(api: Api, offered: list[Subprotocol] | None, *, by_page: bool = False) -> connect:
    """A handshake, of a page of the server's own where ``by_page``."""
    origin = Origin(api.url) if by_page else None
    return connect(
        api.socket_url, compression=None, subprotocols=offered, origin=origin, open_timeout=WAIT_SECONDS, proxy=None
    )


@pytest.mark.parametrize(
    ("offered", "chosen"), [(None, None), ([KNOWN], KNOWN), ([FOREIGN[0], KNOWN], KNOWN), ([KNOWN, LATER], KNOWN)]
)
@pytest.mark.parametrize("by_page", [False, True])
def test_the_known_subprotocol_is_chosen_where_it_is_offered(
    offered: list[Subprotocol] | None, chosen: Subprotocol | None, by_page: bool
) -> None:
    async def scenario(api: Api) -> None:
        async with opened(api, offered, by_page=by_page) as socket:
            assert socket.subprotocol == chosen
            await hear_nothing_more(socket)

    on_memory(scenario)


def test_a_handshake_that_offers_only_others_is_refused() -> None:
    async def scenario(api: Api) -> None:
        with pytest.raises(InvalidStatus) as refused:
            await opened(api, FOREIGN)
        response = refused.value.response
        assert (response.status_code, response.headers["content-type"]) == (400, "application/problem+json")
        body: dict[str, Any] = json.loads(response.body or b"")
        assert (body["code"], body["detail"]) == ("subprotocol_unknown", "offer the subprotocol ordertape.v1, or none")
        assert body["instance"] == "/api/orders/ws"
        assert len(api.sessions) == 0

    on_memory(scenario)


def test_a_page_that_offers_only_others_is_told_by_a_close_code_that_it_can_read() -> None:
    async def scenario(api: Api) -> None:
        async with opened(api, FOREIGN, by_page=True) as socket:
            # A browser drops a socket for which none of its protocols was chosen.
            assert socket.subprotocol == FOREIGN[0]
            code, [goaway] = await hear_close(socket)
        told = {"type": "goaway", "code": 4406, "reason": "offer the subprotocol ordertape.v1, or none"}
        assert (code, goaway) == (4406, told)

    on_memory(scenario)

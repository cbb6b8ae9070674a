"""Lists of orders: which, in what pages, and how the next page is asked for."""

import base64
import re
from collections.abc import Mapping
from typing import Final, get_args
from urllib.parse import urlencode

from starlette.requests import Request

from app.api.orders.freshness import FRESHNESS_PARAMETERS
from app.api.requests import (
    INTEGER,
    invalid_parameter,
    read_choice,
    read_choices,
    read_client,
    read_pair,
    read_query,
    read_time_us,
)
from app.dex.errors import UnknownTokenError
from app.dex.tokens import token
from app.orders.events import OrderType, Side
from app.orders.lifecycle import Phase, Status, phase
from eventstore.errors import BadIdError
from eventstore.ids import partition_in
from projections.queries.orders import OFFSET_MAX, OrderFilter, Place

PAGE_PARAMETERS: Final = ("limit", "cursor", "offset")
FILTER_PARAMETERS: Final = (
    *("clientId", "userId", "status", "phase", "side", "type", "asset", "pair", "createdFrom", "createdTo"),
)
LIST_PARAMETERS: Final = (*PAGE_PARAMETERS, *FILTER_PARAMETERS, *FRESHNESS_PARAMETERS)

_STATUSES: Final[tuple[Status, ...]] = get_args(Status)
_PLACE: Final = re.compile(r"(0|[1-9][0-9]{0,17})\.(\S+)", re.ASCII)
_PLACE_ACCEPTED: Final = "must be the next of an answer, unchanged; start again without it"


def read_list_query(request: Request) -> Mapping[str, str]:
    """Return the parameters of a request for a list.

    Raises:
        ProblemError: ``invalid_query``, here and below.
    """
    if "asOf" in request.query_params:
        # A row is what the order became; which orders had another status then, only every stream together could tell.
        raise invalid_parameter(
            "asOf",
            "is for single orders, /api/orders/{orderId}?asOf=…: a list is of orders as they are. Ask for those of a "
            "time with createdTo, and for each of them as it was",
        )
    return read_query(request, LIST_PARAMETERS)


def read_filter(query: Mapping[str, str]) -> OrderFilter:
    """Return which orders are wanted."""
    asset = query.get("asset")
    pair = read_pair(query)
    return OrderFilter(
        client_id=read_client(query),
        statuses=_read_statuses(query),
        created_from_us=read_time_us(query, "createdFrom"),
        created_to_us=read_time_us(query, "createdTo"),
        side=read_choice(query, "side", get_args(Side)),
        type=read_choice(query, "type", get_args(OrderType)),
        asset=None if asset is None else _read_asset("asset", asset),
        pair=None if pair is None else (_read_asset("pair", pair[0]), _read_asset("pair", pair[1])),
    )


def read_page(query: Mapping[str, str], wanted: OrderFilter) -> tuple[Place | None, int]:
    """Return after which place, and how many orders further on, a page begins."""
    text, offset = query.get("cursor"), query.get("offset", "0")
    if not INTEGER.fullmatch(offset) or int(offset) > OFFSET_MAX:
        raise invalid_parameter("offset", f"must be a whole number from 0 to {OFFSET_MAX}; use cursor to go on further")
    if text is not None and "offset" in query:
        raise invalid_parameter("offset", "must not be given beside cursor, which says where the page begins")
    if int(offset) and not wanted.is_indexed:
        raise invalid_parameter("offset", "does not go with side, type, asset and pair: use cursor")
    return None if text is None else _parse_place(text), int(offset)


def text_of(place: Place) -> str:
    """Return a place as the opaque text that goes into ``cursor``."""
    return base64.urlsafe_b64encode(f"{place.created_us}.{place.order_id}".encode()).decode().rstrip("=")


def link_to(request: Request, place: Place) -> str:
    """Return the header ``Link`` that leads to the page after ``place``."""
    kept = [(name, value) for name, value in request.query_params.multi_items() if name not in ("cursor", "offset")]
    query = urlencode([*kept, ("cursor", text_of(place))])
    return f'<{request.url.path}?{query}>; rel="next"'


def _parse_place(text: str) -> Place:
    try:
        padded = text + "=" * (-len(text) % 4)
        match = _PLACE.fullmatch(base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii"))
        if match is None:
            raise invalid_parameter("cursor", _PLACE_ACCEPTED)
        partition_in(match[2])
    except (ValueError, BadIdError):
        raise invalid_parameter("cursor", _PLACE_ACCEPTED) from None
    return Place(int(match[1]), match[2])


def _read_statuses(query: Mapping[str, str]) -> tuple[str, ...]:
    spelled = {name: value.lower() for name, value in query.items() if name in ("status", "phase")}
    statuses = read_choices(spelled, "status", _STATUSES)
    phases = read_choices(spelled, "phase", [name.lower() for name in get_args(Phase)])
    if not phases:
        return statuses
    found = tuple(name for name in _STATUSES if phase(name).lower() in phases and (not statuses or name in statuses))
    if not found:
        raise invalid_parameter("phase", "must be one that orders of the given status have; leave one of them out")
    return found


def _read_asset(name: str, text: str) -> str:
    try:
        return token(text).symbol
    except UnknownTokenError as error:
        known = ", ".join(error.known)
        raise invalid_parameter(name, f"must name tokens such as {known}, a launched one, or a mint") from None

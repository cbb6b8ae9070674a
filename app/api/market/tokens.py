"""The tokens and pools that the simulated venues trade, over REST."""

from hashlib import sha256
from typing import Final

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.api.requests import is_known, read_query
from app.dex.tokens import LAUNCHED_MAX, PAIRS, SOL, TOKENS, launch_token
from app.dex.venue import VENUES

TOKENS_PATH: Final = "/api/tokens"
NAMES: Final = {
    "SOL": "Wrapped SOL",
    "USDC": "USD Coin",
    "USDT": "Tether USD",
    "BONK": "Bonk",
    "JUP": "Jupiter",
    "RAY": "Raydium",
    "ETH": "Ether (Portal)",
}
"""What people call each token, by symbol."""


class TokenView(Struct, frozen=True, kw_only=True):
    """A token that always trades; ``decimals`` is how many digits its amounts have after the point."""

    symbol: str
    name: str
    mint: str
    decimals: int


class PairView(Struct, frozen=True, kw_only=True, rename="camel"):
    """Two tokens with a pool at each of ``venues``; an order may name them either way round."""

    pair: str
    base_asset: str
    quote_asset: str
    venues: list[str]


class Launched(Struct, frozen=True, kw_only=True, rename="camel"):
    """Tokens that trade from their launches on: the first and the last symbol of a row without gaps."""

    first: str
    last: str
    decimals: int
    quote_asset: str
    venues: list[str]


class TokenList(Struct, frozen=True, kw_only=True):
    """Everything that can be traded."""

    simulated: bool
    tokens: list[TokenView]
    pairs: list[PairView]
    launched: Launched


def token_list() -> TokenList:
    """Return everything that the venues trade."""
    return TokenList(
        simulated=True,
        tokens=[
            TokenView(symbol=token.symbol, name=NAMES[token.symbol], mint=token.mint, decimals=token.decimals)
            for token in TOKENS
        ],
        pairs=[
            PairView(pair=pair.name, base_asset=pair.base.symbol, quote_asset=pair.quote.symbol, venues=list(VENUES))
            for pair in PAIRS
        ],
        launched=Launched(
            first=launch_token(1).symbol,
            last=launch_token(LAUNCHED_MAX).symbol,
            decimals=launch_token(1).decimals,
            quote_asset=SOL.symbol,
            venues=list(VENUES),
        ),
    )


class TokenRoutes:
    """``/api/tokens``."""

    def __init__(self) -> None:
        self._body: Final = msgspec.json.encode(token_list())
        tag = f'"{sha256(self._body).hexdigest()[:16]}"'
        self._headers: Final = {"ETag": tag, "Cache-Control": "public, max-age=3600"}

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [Route(TOKENS_PATH, self.tokens, methods=["GET"])]

    async def tokens(self, request: Request) -> Response:
        """List tokens and pools; 304 where the client has the list."""
        read_query(request, ())
        if is_known(request, self._headers["ETag"]):
            return Response(status_code=304, headers=self._headers)
        return Response(self._body, headers=self._headers, media_type="application/json")

"""What must hold before an API answers: that it does not answer everybody by mistake, nor nobody."""

from typing import Literal

from sqlalchemy.ext.asyncio import AsyncEngine

from app.api.access.origins import is_loopback
from projections.queries.keys import active_keys


class AccessError(Exception):
    """The API does not start; the message says what to set or to do."""


class ExposedError(AccessError):
    """Everybody who reaches the address could use the API."""

    def __init__(self, host: str) -> None:
        super().__init__(
            f"HOST is {host}, which others can reach, and ORDERTAPE_AUTH is open, by which everybody may read and "
            "cancel every order: make a key (ordertape keys create --client NAME --role trader) and set "
            "ORDERTAPE_AUTH=keys, or set HOST=127.0.0.1"
        )
        self.host = host


class NoKeysError(AccessError):
    """Nobody could use the API."""

    def __init__(self) -> None:
        super().__init__(
            "ORDERTAPE_AUTH is keys, and there is no active key, so nobody could use the API: "
            "make one (ordertape keys create --client NAME --role trader)"
        )


def require_guarded(mode: Literal["open", "keys"], host: str) -> None:
    """Return if an API that listens on ``host`` asks for keys, or is reached by this machine alone.

    Raises:
        ExposedError: neither.
    """
    if mode == "open" and not is_loopback(host):
        raise ExposedError(host)


async def require_keys(mode: Literal["open", "keys"], database: AsyncEngine) -> None:
    """Return if somebody has a key, where one is asked for.

    Raises:
        NoKeysError: nobody has.
        StoreUnavailableError: PostgreSQL, which has them, does not answer, or is not set up.
    """
    if mode == "keys" and not await active_keys(database, 1):
        raise NoKeysError

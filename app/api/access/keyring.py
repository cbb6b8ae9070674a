"""The keys that open this API, read again every few seconds, so that no request waits for the database."""

import asyncio
import hmac
import logging
from collections.abc import Callable, Mapping
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from app.api.access.keys import digest_of, id_of
from app.api.access.principal import Grant
from app.api.access.start import NoKeysError
from app.api.problems import RETRY_AFTER_MS, Closing, ProblemError
from eventstore.errors import StoreUnavailableError
from projections.queries.keys import ActiveKey, active_keys

REFRESH_SECONDS: Final = 2.0
"""Between two looks at the database. With one round trip, the longest that a revoked key still opens anything."""
MISS_SECONDS: Final = 0.5
"""A key that is not known is looked for within this time, once for all that are not known meanwhile."""
READ_SECONDS_MAX: Final = 2.0
STALE_SECONDS_MAX: Final = 900.0
"""So long the keys that are known open the API while the database does not answer. Nobody can revoke one meanwhile."""
KEYS_MAX: Final = 10_000
"""That may be active at once; further ones open nothing."""

KEY_ENDED: Final = Closing(4401, "this connection's key opens nothing any more")
KEYS_UNKNOWN: Final = Closing(4503, "which keys are still good is not known: reconnect and resume", RETRY_AFTER_MS)

log: Final = logging.getLogger(__name__)


class Keyring:
    """The active keys.

    Args:
        on_end: told of the keys that open nothing any more, by id; also of all, again and again, while they are stale.
    """

    def __init__(
        self,
        database: AsyncEngine,
        on_end: Callable[[frozenset[str], Closing], None],
        *,
        refresh_seconds: float,
        stale_seconds_max: float,
    ) -> None:
        self._database = database
        self._on_end = on_end
        self._refresh_seconds = refresh_seconds
        self._stale_seconds_max = stale_seconds_max
        self._keys: Mapping[str, ActiveKey] = {}
        self._read_at = float("-inf")
        self._tried_at = float("-inf")
        self._reading = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._keys)

    async def start(self) -> None:
        """Read the keys for the first time.

        Raises:
            NoKeysError: there is none, so that nobody could use the API.
            StoreUnavailableError: the database does not answer.
        """
        await self._read()
        if not self._keys:
            raise NoKeysError

    async def run(self) -> None:
        """Read the keys again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._refresh_seconds)
            await self._refresh()
            if self._is_stale():
                self._on_end(frozenset(self._keys), KEYS_UNKNOWN)

    async def recognize(self, text: str) -> Grant | None:
        """Return what a key opens; None for what opens nothing.

        Raises:
            ProblemError: ``unavailable``: which keys are still good has not been known for too long.
        """
        if id_of(text) is None:
            return None
        found = self._match(text)
        if found is None:
            await self._look_again()
            found = self._match(text)
        return None if found is None else self._grant(found)

    def grant_of(self, key_id: str) -> Grant | None:
        """Return what the key of that id opens; None if nothing.

        Raises:
            ProblemError: ``unavailable``, as :meth:`recognize`.
        """
        found = self._keys.get(key_id)
        return None if found is None else self._grant(found)

    def is_active(self, key_id: str) -> bool:
        """Whether the key of that id was active when the keys were read last."""
        return key_id in self._keys

    def _match(self, text: str) -> ActiveKey | None:
        found = self._keys.get(id_of(text) or "")
        return found if found is not None and hmac.compare_digest(found.hash, digest_of(text)) else None

    def _grant(self, key: ActiveKey) -> Grant:
        if self._is_stale():
            detail = "which keys are still good is not known while PostgreSQL does not answer: ask again"
            raise ProblemError("unavailable", detail)
        return Grant(key_id=key.id, client=key.client, roles=key.roles)

    def _is_stale(self) -> bool:
        return asyncio.get_running_loop().time() - self._read_at > self._stale_seconds_max

    async def _look_again(self) -> None:
        asked_at = asyncio.get_running_loop().time()
        async with self._reading:
            since = asked_at - self._tried_at
            # Negative where somebody read them while this one waited.
            if since >= 0:
                await asyncio.sleep(max(0.0, MISS_SECONDS - since))
                await self._refresh_now()

    async def _refresh(self) -> None:
        async with self._reading:
            await self._refresh_now()

    async def _refresh_now(self) -> None:
        before = self._keys
        try:
            async with asyncio.timeout(READ_SECONDS_MAX):
                await self._read()
        except (TimeoutError, StoreUnavailableError):
            log.warning("keys_not_read", extra={"keys": len(self._keys)})
            return
        ended = frozenset(before) - frozenset(self._keys)
        if ended:
            log.info("keys_ended", extra={"keys": sorted(ended)})
            self._on_end(ended, KEY_ENDED)

    async def _read(self) -> None:
        now = asyncio.get_running_loop().time()
        self._tried_at = now
        found = await active_keys(self._database, KEYS_MAX)
        self._keys = {key.id: key for key in found}
        # As of when it was asked: what was revoked later may be among them.
        self._read_at = now

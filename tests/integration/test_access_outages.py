"""While PostgreSQL is away: known keys go on opening for a while, and not for ever."""

import asyncio

import pytest

from tests.conftest import database_at, execute
from tests.integration.api import hear_close, hear_nothing_more, problem
from tests.integration.guarded import ANN, Guarded, guarded_by, on_guarded

pytestmark = pytest.mark.slow


def away(database_url: str) -> None:
    """Let nobody connect any more, and end who is connected."""
    name = database_url.partition("/test_")[2].partition("?")[0]
    server = database_at(database_url, "postgres")
    execute(server, f"ALTER DATABASE test_{name} ALLOW_CONNECTIONS false")
    execute(server, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", f"test_{name}")


def test_known_keys_go_on_opening_while_the_database_is_away(database_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        order_id = await on.ann.place()
        async with on.socket(on.ann) as socket:
            ticket = (await on.ann.http.post("/api/tickets")).json()["ticket"]
            await asyncio.to_thread(away, database_url)
            for _ in range(3):
                assert (await on.ann.http.get(f"/api/orders/{order_id}/events")).status_code == 200
            problem(await on.ann.http.post("/api/tickets"), 503, "unavailable")
            path = f"/api/clients/{ANN}/stream"
            problem(await on.api.http.get(path, params={"ticket": ticket}), 503, "unavailable")
            problem(await on.api.http.get("/api/orders"), 401, "unauthenticated")
            unknown = f"otk_{'0' * 12}_{'0' * 64}"
            refused = await on.api.http.get("/api/orders", headers={"Authorization": f"Bearer {unknown}"})
            problem(refused, 401, "unauthenticated")
            await hear_nothing_more(socket)

    on_guarded(database_url, scenario)


def test_keys_that_nobody_could_revoke_for_too_long_open_nothing(database_url: str) -> None:
    async def scenario(on: Guarded) -> None:
        order_id = await on.ann.place()
        async with on.socket(on.ann) as socket:
            await asyncio.to_thread(away, database_url)
            code, _ = await hear_close(socket)
            assert code == 4503
            problem(await on.ann.http.get(f"/api/orders/{order_id}/events"), 503, "unavailable")

    on_guarded(database_url, scenario, guarded_by(stale_seconds_max=1))

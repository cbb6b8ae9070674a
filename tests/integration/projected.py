"""An engine's data as commands find it: a namespace of its own on Redis, projected into a database of its own."""

import asyncio
import secrets
import sys
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.cli.main import main
from eventstore.redis.opening import StoreSettings
from eventstore.redis.store import RedisEventStore
from eventstore.store import Append
from projections.projector.runner import Projector
from tests.conftest import append_all, database

NOWHERE: Final = "postgresql://nobody@127.0.0.1:1/none"
"""No database."""


class Engine:
    """The data, and the commands of whoever operates it."""

    def __init__(self, redis_url: str, database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.redis_url = redis_url
        self.database_url = database_url
        self.namespace = f"p{secrets.token_hex(5)}"
        self._capsys = capsys

    def project(self, commits: Iterable[Append] = ()) -> None:
        """Append ``commits``, and project everything."""

        async def scenario(store: RedisEventStore, engine: AsyncEngine) -> None:
            await append_all(store, commits)
            await Projector(store, engine).project_available()

        self.on_data(scenario)

    def append(self, commits: Iterable[Append]) -> None:
        """Append ``commits``, and project nothing."""
        self.on_data(lambda store, _: append_all(store, commits))

    def on_data(self, act: Callable[[RedisEventStore, AsyncEngine], Awaitable[None]]) -> None:
        """Do something with the store and the database."""

        async def scenario() -> None:
            settings = StoreSettings(namespace=self.namespace)
            store = await RedisEventStore.open(self.redis_url, settings, new_store_id=self.namespace)
            try:
                async with database(self.database_url) as engine:
                    await act(store, engine)
            finally:
                await store.close()

        asyncio.run(scenario())

    def run(self, *command: str, status: int = 0) -> str:
        """Run a command as a person does, and return what it prints; both streams where it is meant to fail."""
        out, errors = self.both(*command, status=status)
        return out if status == 0 else errors + out

    def both(self, *command: str, status: int = 0) -> tuple[str, str]:
        """Run a command, and return both streams."""
        self._capsys.readouterr()
        before, sys.argv = sys.argv, ["ordertape", *command]
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            sys.argv = before
        told = self._capsys.readouterr()
        assert (ended.value.code or 0) == status, told.err + told.out
        return told.out, told.err


def engine_here(
    redis_url: str,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    directory: Path,
    capsys: pytest.CaptureFixture[str],
) -> Engine:
    """Return an engine whose data the commands of this process find, by their environment."""
    engine = Engine(redis_url, database_url, capsys)
    monkeypatch.chdir(directory)
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("ORDERTAPE_NAMESPACE", engine.namespace)
    monkeypatch.setenv("COLUMNS", "200")
    return engine

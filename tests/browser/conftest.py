"""One browser and one engine for the tests of this folder."""

from collections.abc import Iterator

import pytest

from app.embedded import Servers
from tests.browser.engine import Browser
from tests.conftest import database_at, execute


@pytest.fixture(scope="session")
def browser(redis_url: str, postgres_url: str, template_database: str) -> Iterator[Browser]:
    """On a database of its own, and in a namespace of its own."""
    execute(postgres_url, f"CREATE DATABASE dashboard TEMPLATE {template_database}")
    opened = Browser(Servers(redis_url, database_at(postgres_url, "dashboard")))
    try:
        yield opened
    finally:
        opened.close()

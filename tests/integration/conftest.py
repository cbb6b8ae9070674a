"""A database for the keys of many tests: making one costs more than most of them."""

from collections.abc import Iterator

import pytest

from tests.conftest import TEMPLATE, database_at, execute


@pytest.fixture(scope="session")
def keys_url(postgres_url: str, template_database: str) -> Iterator[str]:
    """A migrated database that tests share which look at no rows but those of keys of their own."""
    name = f"keys_{TEMPLATE}"
    execute(postgres_url, f"CREATE DATABASE {name} TEMPLATE {template_database}")
    yield database_at(postgres_url, name)
    execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")

"""Node, started at first use."""

from collections.abc import Iterator

import pytest

from tests.conformance.followers import Node


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """One process for all tests."""
    process = Node()
    try:
        yield process
    finally:
        process.close()

"""Each safeguard of access, taken out of a copy of the source: a test fails there."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from app.embedded import Servers
from tests.conftest import LENT_SERVERS
from tests.crash.access_safeguards import ACCESS
from tests.crash.safeguards import Safeguard
from tests.crash.test_execution_safeguards import fails_without
from tests.crash.test_safeguards import ROOT, copied, pytest_in


@pytest.mark.parametrize("safeguard", ACCESS, ids=lambda safeguard: safeguard.name)
def test_each_safeguard_of_access_stands_in_the_source_once(safeguard: Safeguard) -> None:
    assert (ROOT / safeguard.file).read_text(encoding="utf-8").count(safeguard.text) == 1


@pytest.mark.slow
def test_a_test_fails_wherever_a_safeguard_of_access_is_taken_out(
    tmp_path: Path, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LENT_SERVERS, msgspec.json.encode(servers).decode())
    whole = copied(tmp_path / "whole")
    passed = pytest_in(whole, *dict.fromkeys(safeguard.check for safeguard in ACCESS))
    assert passed.returncode == 0, passed.stdout
    with ThreadPoolExecutor(2) as pool:
        failing = list(pool.map(lambda safeguard: fails_without(tmp_path, safeguard), ACCESS))
    assert [safeguard.name for safeguard, fails in zip(ACCESS, failing, strict=True) if not fails] == []

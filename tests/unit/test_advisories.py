"""What an audit of the dependencies comes to: nothing is called audited that nobody was asked about."""

import pytest

from tests.advisories import CLEAN, UNASKED, VULNERABLE, Dependency, Report, Vulnerability, verdict

GOOD = Dependency("good", "1.0")
BAD = Dependency("bad", "1.0", [Vulnerability("PYSEC-1", ["1.1"]), Vulnerability("PYSEC-2")])
UNKNOWN = Dependency("unknown", skip_reason="not found on PyPI")


@pytest.mark.parametrize(
    ("dependencies", "status", "told"),
    [
        ([GOOD], CLEAN, ["1 dependencies were audited"]),
        (
            [GOOD, BAD],
            VULNERABLE,
            ["bad 1.0: PYSEC-1, mended in 1.1", "bad 1.0: PYSEC-2, mended in nothing", "2 dependencies were audited"],
        ),
        (
            [GOOD, UNKNOWN],
            UNASKED,
            [
                "NOT AUDITED: 1 of 2 dependencies are unknown to the service",
                "  not found on PyPI",
                "1 dependencies were audited",
            ],
        ),
        ([], UNASKED, ["NOT AUDITED: 0 of 0 dependencies are unknown to the service", "0 dependencies were audited"]),
    ],
)
def test_the_verdict_says_what_was_audited_and_what_was_not(
    dependencies: list[Dependency], status: int, told: list[str]
) -> None:
    assert verdict(Report(dependencies)) == (status, told)


def test_a_vulnerability_counts_more_than_what_was_not_asked() -> None:
    assert verdict(Report([BAD, UNKNOWN]))[0] == VULNERABLE

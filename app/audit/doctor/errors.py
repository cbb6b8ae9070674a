"""The doctor's one error: why the engine is not started."""

from collections.abc import Sequence

from app.audit.doctor.findings import Finding


class UnfitError(Exception):
    """The servers cannot keep what the settings promise. Mend what each of ``findings`` names, or promise less."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__(refusal(findings))
        self.findings = tuple(findings)


def refusal(findings: Sequence[Finding]) -> str:
    """Return in some lines why nothing is started, and what mends it."""
    lines = ["the servers cannot keep what the settings promise, so nothing was started:"]
    for each in findings:
        lines += [f"  {each.id}: {each.place}: {each.found}; {each.consequence}", f"    fix: {each.fix}"]
    return "\n".join([*lines, "`ordertape doctor` checks again, and shows what else it finds"])

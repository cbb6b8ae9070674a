"""Asks the advisory service of the package index about every locked dependency; says plainly what could not be asked.

    python -m tests.advisories [--warn]

Exit status 0: every dependency was looked up, and no vulnerability is known; 1: some are; 3: some were not looked up,
which --warn turns into 0. pip-audit itself takes an index that knows no package for one that knows no vulnerability.
"""

import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

ROOT: Final = Path(__file__).parents[1]
TOOL: Final = "pip-audit>=2.10,<3"
HOME: Final = ROOT / ".venv" / "audit"
"""An environment of its own: the tool must not change what it judges."""
RUN_SECONDS_MAX: Final = 300
CLEAN, VULNERABLE, UNASKED = 0, 1, 3


class Vulnerability(Struct):
    id: str
    fix_versions: list[str] = []


class Dependency(Struct):
    """What pip-audit says of one; ``skip_reason``: nothing, for this reason."""

    name: str
    version: str | None = None
    vulns: list[Vulnerability] = []
    skip_reason: str | None = None


class Report(Struct):
    dependencies: list[Dependency]


def verdict(report: Report) -> tuple[int, list[str]]:
    """Return the exit status and what to tell."""
    lines = [
        f"{one.name} {one.version}: {vulnerability.id}, mended in {', '.join(vulnerability.fix_versions) or 'nothing'}"
        for one in report.dependencies
        for vulnerability in one.vulns
    ]
    unasked = [one for one in report.dependencies if one.skip_reason is not None]
    asked = len(report.dependencies) - len(unasked)
    if unasked or not report.dependencies:
        lines.append(
            f"NOT AUDITED: {len(unasked)} of {len(report.dependencies)} dependencies are unknown to the service"
        )
        lines += [f"  {unasked[0].skip_reason}"] if unasked else []
    lines.append(f"{asked} dependencies were audited")
    if any(one.vulns for one in report.dependencies):
        return VULNERABLE, lines
    return UNASKED if unasked or not asked else CLEAN, lines


def main(arguments: list[str]) -> int:
    try:
        report = msgspec.json.decode(_audited(), type=Report)
    except (OSError, subprocess.SubprocessError, msgspec.DecodeError) as error:
        told = getattr(error, "stderr", None) or str(error)
        status, lines = UNASKED, ["NOT AUDITED: the service cannot be asked", f"  {told.strip().splitlines()[-1]}"]
    else:
        status, lines = verdict(report)
    sys.stdout.write("\n".join(lines) + "\n")
    return CLEAN if status == UNASKED and "--warn" in arguments else status


def _audited() -> bytes:
    tool = HOME / "bin" / "pip-audit"
    if not tool.exists():
        venv.create(HOME, with_pip=True, clear=True)
        _run([str(HOME / "bin" / "python"), "-m", "pip", "install", "--quiet", TOOL])
    options = ["--disable-pip", "--require-hashes", "--progress-spinner", "off", "--format", "json"]
    # 1 means that it found something; what it prints says what.
    return _run([str(tool), "-r", str(ROOT / "requirements.lock"), *options], also=1).encode()


def _run(command: list[str], also: int = 0) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS_MAX, check=False)
    if done.returncode not in (0, also) or (done.returncode and not done.stdout):
        raise subprocess.CalledProcessError(done.returncode, command[0], done.stdout, done.stderr)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

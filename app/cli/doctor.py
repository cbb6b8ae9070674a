"""`doctor`: whether the servers and settings can keep what the engine promises, and what to change where not."""

import asyncio
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from app.audit.doctor.checkup import examine_all
from app.audit.doctor.findings import KINDS, SEVERITIES, Finding
from app.cli.audit import printable
from app.cli.connections import joined_servers, settings_here
from projections.database import DATABASE_OUTAGES

EXIT_FINDINGS: Final = 1
EXIT_CANNOT: Final = 2

_STYLES: Final = {"fatal": "bold red", "warning": "bold yellow", "note": "dim"}
_SEVERITY_WIDTH: Final = max(map(len, SEVERITIES))
_ID_WIDTH: Final = max(map(len, KINDS))


def doctor(as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False) -> None:
    """Check servers and settings: can they keep what the engine promises?

    Changes no setting and no order; each finding names what mends it (docs/doctor.md). Safe while the engine runs.
    Exit status 0: nothing fatal and no warning, 1: findings, 2: it could not be carried out.
    """
    findings = _findings()
    if as_json:
        sys.stdout.write(msgspec.json.encode(report(findings)).decode() + "\n")
    else:
        show(Console(soft_wrap=True, highlight=False), findings)
    raise typer.Exit(EXIT_FINDINGS if any(each.severity != "note" for each in findings) else 0)


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(doctor)


def _findings() -> list[Finding]:
    settings = settings_here()

    async def run() -> list[Finding]:
        async with joined_servers(settings) as servers:
            return await examine_all(settings, servers)

    try:
        return asyncio.run(run())
    except DATABASE_OUTAGES as error:
        sys.stderr.write(f"ordertape: PostgreSQL cannot be used: {str(error).splitlines()[0]}\n")
        raise typer.Exit(EXIT_CANNOT) from None


def report(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return what ``--json`` prints: the number of findings of each severity, and the findings, worst first."""
    counts = Counter(each.severity for each in findings)
    return {**{severity: counts[severity] for severity in SEVERITIES}, "findings": findings}


def show(console: Console, findings: Sequence[Finding]) -> None:
    """Print findings for people: a line for each with its fix below it, and a verdict at the end."""
    for each in findings:
        console.print(_line(each))
        if each.fix:
            console.print(Text.assemble(" " * (_SEVERITY_WIDTH + 2), ("fix: ", "bold"), (each.fix, "cyan")))
    console.print(_verdict(Counter(each.severity for each in findings)))


def _line(each: Finding) -> Text:
    style = _STYLES[each.severity]
    text = Text(f"{each.severity:<{_SEVERITY_WIDTH}}  ", style=style)
    text.append(f"{each.id:<{_ID_WIDTH}}  ", style=style)
    text.append(f"{each.place}: {printable(each.found)}", style="not bold not dim default")
    return text if each.severity == "note" else text.append(f"; {each.consequence}", style="not bold default")


def _verdict(counts: Counter[str]) -> Text:
    fatal, warnings = counts["fatal"], counts["warning"]
    if fatal:
        return Text(f"unfit: {_count(fatal, 'fatal finding')}, {_count(warnings, 'warning')}", style="bold red")
    if warnings:
        return Text(f"fit, with {_count(warnings, 'warning')}", style="bold yellow")
    return Text("fit: everything that was checked is in order", style="bold green")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

"""`projections diff` of a projection that no stream has the rows of: built beside, compared, and thrown away."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import typer
from msgspec import Struct
from rich.text import Text

from app.cli.connections import Connected
from app.cli.projections.answers import EXIT_CANNOT, EXIT_FINDINGS, console, table, write_json
from app.cli.projections.progress import reporting
from app.cli.projections.refusals import Refused, answered, tell_refusal
from projections.models.projection import Projection
from projections.rebuild.gate import ROW, Compared, Difference
from projections.rebuild.rebuilding import Rebuilt, Wanted, rebuild

_COLUMNS: Final = ("key", "kind", "field", "expected", "found")


class RowFinding(Struct, frozen=True, kw_only=True):
    """Where the live table is not what the archive comes to, for programs."""

    key: str
    kind: Literal["missing", "extra", "value"]
    """``missing``: there is no live row; ``extra``: there should be none; ``value``: one column differs."""
    field: str
    """A column, or ``row`` for a whole one."""
    expected: str
    """What the archive comes to; "" for nothing."""
    found: str
    """What the live table holds; "" for nothing."""


class ComparedView(Struct, frozen=True, kw_only=True):
    """How a live table differs, for programs: the first findings, and in how many rows each column does."""

    projection: str
    findings: Sequence[RowFinding]
    rows: int
    columns: Mapping[str, int]


def compare(projection: Projection, *, as_json: bool) -> None:
    """Tell how the live table differs from what the archive comes to, and exit."""

    async def work(engine: Connected) -> Rebuilt:
        with reporting(as_json=False) as report:
            return await rebuild(engine.database, projection, Wanted(verify_only=True), report=report)

    compared = answered(projection.name, work, as_json).compared
    if compared is None:
        reason = f"{projection.name} is not projected yet: ordertape rebuild {projection.name}"
        tell_refusal(Refused(projection=projection.name, reason=reason, columns={}, samples=[]), as_json)
        raise typer.Exit(EXIT_CANNOT)
    findings = [finding_of(each) for each in compared.samples]
    if as_json:
        write_json(
            ComparedView(projection=projection.name, findings=findings, rows=compared.rows, columns=compared.columns)
        )
    else:
        _show(projection.name, findings, compared)
    raise typer.Exit(EXIT_FINDINGS if compared.rows else 0)


def finding_of(difference: Difference) -> RowFinding:
    """Return a difference between two generations as one between the live table and what it should be."""
    kind: Literal["missing", "extra", "value"] = "value"
    if difference.column == ROW:
        kind = "missing" if difference.live is None else "extra"
    return RowFinding(
        key=difference.key,
        kind=kind,
        field=difference.column,
        expected=difference.rebuilt or "",
        found=difference.live or "",
    )


def _show(name: str, findings: Sequence[RowFinding], compared: Compared) -> None:
    out = console()
    if not compared.rows:
        out.print(Text(f"clean: every row of {name} is what the archive comes to", style="bold green"))
        return
    out.print(table(_COLUMNS, [(each.key, each.kind, each.field, each.expected, each.found) for each in findings]))
    counts = ", ".join(f"{column} ({count})" for column, count in compared.columns.items())
    out.print(Text(f"{compared.rows} rows differ: {counts}", style="bold red"))
    if sum(compared.columns.values()) > len(findings):
        out.print(f"the first {len(findings)} differences are shown")

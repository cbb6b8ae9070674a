"""`keys`: who may use the API; keys are made, listed and revoked here, and shown once."""

import asyncio
import secrets
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Final, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.api.access.keys import ROLES, TRADER, new_key
from app.api.requests import CLIENT_CHARACTERS_MAX, is_printable
from app.cli.audit import printable
from app.cli.connections import joined_servers, settings_here
from app.main import open_database
from projections.database import DATABASE_OUTAGES
from projections.queries.keys import ActiveKey, ListedKey, add_key, list_keys, revoke_key
from projections.schema.migrations import require_schema, upgrade_schema

EXIT_NONE: Final = 1
EXIT_CANNOT: Final = 2
NAME_CHARACTERS_MAX: Final = 64

_T = TypeVar("_T")

keys = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Keys of the API, asked for where ORDERTAPE_AUTH is keys. "
    "Exit status 0: done, 1: no such key, 2: it could not be carried out.",
)

Json = Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")]


class KeyView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A key as this command shows it."""

    id: str
    client_id: str | None
    roles: Sequence[str]
    name: str
    created_at: str
    revoked_at: str | None


@keys.command()
def create(
    role: Annotated[
        list[str],
        typer.Option(
            help="trader: places, cancels and reads the client's orders; auditor: "
            "reads everybody's; admin: everything. May be given several times."
        ),
    ],
    client: Annotated[str | None, typer.Option(help="Whose orders a trader places and reads.")] = None,
    name: Annotated[str, typer.Option(help="What reminds you of who has it.")] = "",
    as_json: Json = False,
) -> None:
    """Make a key and print it, once: only its hash is stored. Running processes know it within 2 seconds."""
    roles = frozenset(role)
    _check(roles, client, name)
    key = new_key(secrets.token_bytes)

    async def work(database: AsyncEngine) -> None:
        # So that keys exist before the first start, which asks for one.
        await upgrade_schema(database)
        await add_key(database, ActiveKey(id=key.id, hash=key.digest, client=client, roles=roles), name)

    _run(work)
    if as_json:
        _write_json({"id": key.id, "key": key.text, "clientId": client, "roles": sorted(roles), "name": name})
    else:
        sys.stderr.write("This key is shown once, and stored nowhere; keep it like a password:\n")
        sys.stdout.write(key.text + "\n")


@keys.command("list")
def list_(as_json: Json = False) -> None:
    """List the keys there ever were, oldest first."""

    async def work(database: AsyncEngine) -> list[ListedKey]:
        await require_schema(database)
        return await list_keys(database)

    views = [_view(key) for key in _run(work)]
    if as_json:
        _write_json({"keys": views})
    elif views:
        Console(soft_wrap=True, highlight=False).print(_table(views))
    else:
        sys.stdout.write("there are no keys\n")


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="as list shows it")], as_json: Json = False
) -> None:
    """Revoke a key for ever; within 5 seconds no process takes it, and its connections are ended."""

    async def work(database: AsyncEngine) -> bool | None:
        await require_schema(database)
        return await revoke_key(database, key_id)

    revoked = _run(work)
    if revoked is None:
        sys.stderr.write(f"ordertape: there is no key {printable(key_id)}\n")
        raise typer.Exit(EXIT_NONE)
    if as_json:
        _write_json({"id": key_id, "revokedNow": revoked})
    else:
        sys.stdout.write(f"{key_id} is revoked\n" if revoked else f"{key_id} was revoked before\n")


def add_to(app: typer.Typer) -> None:
    """Add this group of commands."""
    app.add_typer(keys, name="keys")


def _check(roles: frozenset[str], client: str | None, name: str) -> None:
    if not roles <= set(ROLES):
        raise typer.BadParameter(f"must be {', '.join(ROLES[:-1])} or {ROLES[-1]}", param_hint="--role")
    if client is None and TRADER in roles:
        raise typer.BadParameter("a trader trades for somebody: name the client", param_hint="--client")
    if client is not None and not is_printable(client, CLIENT_CHARACTERS_MAX):
        raise typer.BadParameter(f"must be 1 to {CLIENT_CHARACTERS_MAX} printable characters", param_hint="--client")
    if name and not is_printable(name, NAME_CHARACTERS_MAX):
        raise typer.BadParameter(f"must be at most {NAME_CHARACTERS_MAX} printable characters", param_hint="--name")


def _run(work: Callable[[AsyncEngine], Awaitable[_T]]) -> _T:
    settings = settings_here()

    async def run() -> _T:
        async with joined_servers(settings) as servers:
            database = open_database(servers, "keys")
            try:
                return await work(database)
            finally:
                await database.dispose()

    try:
        return asyncio.run(run())
    except DATABASE_OUTAGES as error:
        sys.stderr.write(f"ordertape: PostgreSQL cannot be used: {str(error).splitlines()[0]}\n")
    raise typer.Exit(EXIT_CANNOT)


def _view(key: ListedKey) -> KeyView:
    return KeyView(
        id=key.id,
        client_id=key.client,
        roles=key.roles,
        name=key.name,
        created_at=key.created_at,
        revoked_at=key.revoked_at,
    )


def _table(views: Sequence[KeyView]) -> Table:
    table = Table(box=None)
    for name in ("id", "client", "roles", "name", "created", "revoked"):
        table.add_column(name, overflow="fold", no_wrap=name == "id")
    for view in views:
        cells = (
            view.id,
            view.client_id or "",
            ", ".join(view.roles),
            view.name,
            view.created_at,
            view.revoked_at or "",
        )
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _write_json(value: Any) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")

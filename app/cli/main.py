"""The command `ordertape`: all groups of commands, and what an error looks like on a terminal."""

import sys

import typer

from app.api.access.start import AccessError
from app.audit.doctor.errors import UnfitError
from app.cli import audit, demo, description, doctor, keys, roles, status, up
from app.cli.audit import printable
from app.cli.orders import commands, launch, parked
from app.cli.projections import commands as projections
from app.cli.projections import rebuild, restore
from app.client import ClientError
from app.dex.errors import DexError
from app.embedded import EmbeddedError
from app.settings import SettingsError
from eventstore.errors import EventStoreError
from projections.errors import ProjectionError

EXIT_CANNOT = 2
EXPECTED = (
    AccessError,
    ClientError,
    DexError,
    EmbeddedError,
    EventStoreError,
    ProjectionError,
    UnfitError,
    up.StartError,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="OrderTape: an event-sourced order execution engine. `ordertape up` runs all of it on this machine.",
)
GROUPS = (
    *(up, commands, launch, status, projections, rebuild, roles, demo, audit, doctor, parked, restore, keys),
    description,
)
for group in GROUPS:
    group.add_to(app)


def main() -> None:
    """Run one command. Exit status 2 means that it could not be carried out; the reason is on standard error."""
    try:
        app()
    except EXPECTED as error:
        _refuse(str(error))
    except SettingsError as error:
        _refuse("the settings are refused:\n  " + "\n  ".join(error.problems))
    except KeyboardInterrupt:
        sys.exit(130)


def _refuse(message: str) -> None:
    says = "\n".join(map(printable, message.split("\n")))
    sys.stderr.write(f"ordertape: {says}\n")
    sys.exit(EXIT_CANNOT)


if __name__ == "__main__":
    main()

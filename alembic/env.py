"""Runs migrations on the connection that the engine hands over, or on the database that ``-x url=…`` names."""

import sys
from pathlib import Path

from alembic import context
from sqlalchemy import Connection, create_engine, make_url

sys.path.insert(0, str(Path(__file__).parents[1]))

from projections.database import DRIVER
from projections.models.registry import METADATA


def migrate(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=METADATA, compare_server_default=True)
    with context.begin_transaction():
        context.run_migrations()


connection = context.config.attributes.get("connection")
if connection is not None:
    migrate(connection)
else:
    url = context.get_x_argument(as_dictionary=True).get("url")
    if not isinstance(url, str):
        raise SystemExit("name the database: alembic -x url=postgresql://user@host/database upgrade head")
    with create_engine(make_url(url).set(drivername=DRIVER)).connect() as connection:
        migrate(connection)

"""Daily volumes and venues' shares: what confirmed orders exchanged, by day, pair, venue and client."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any, Final

import msgspec
from msgspec import Struct
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Date,
    Index,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from projections.fold.histories import Change
from projections.models.projection import Key, Step
from projections.schema.tables import metadata

KEY: Final = ("day", "base_asset", "quote_asset", "venue", "client_id", "partition")
SUMS: Final = ("orders", "base_units", "quote_units", "base_fee", "quote_fee")
_DAY_CHARACTERS: Final = 10


class Volume(Struct, frozen=True):
    """What one order, or many of one key, exchanged.

    ``day`` is the UTC day of confirmation; ``client_id`` is "" for anonymous orders. Units are base units of the pair's
    assets; the fee is in the asset that the order paid in. ``partition`` keeps writers of one day apart.
    """

    day: str
    base_asset: str
    quote_asset: str
    venue: str
    client_id: str
    partition: int
    base_decimals: int
    quote_decimals: int
    orders: int
    base_units: int
    quote_units: int
    base_fee: int
    quote_fee: int


class Volumes:
    """See :class:`Projection`."""

    name: Final = "volumes"
    event_types: Final = frozenset({"OrderConfirmed"})

    def define(self, metadata: MetaData, table: str) -> Table:
        """See :meth:`Projection.define`."""
        defined = Table(
            table,
            metadata,
            Column("day", Date, nullable=False),
            Column("base_asset", Text, nullable=False),
            Column("quote_asset", Text, nullable=False),
            Column("venue", Text, nullable=False),
            Column("client_id", Text, nullable=False),
            Column("partition", SmallInteger, nullable=False),
            Column("base_decimals", SmallInteger, nullable=False),
            Column("quote_decimals", SmallInteger, nullable=False),
            Column("orders", BigInteger, nullable=False),
            *(Column(name, Numeric(40, 0), nullable=False) for name in SUMS[1:]),
            PrimaryKeyConstraint(*KEY, name=f"{table}_pkey"),
            CheckConstraint("orders >= 1", name=f"{table}_orders_check"),
        )
        Index(f"{table}_client_day", defined.c.client_id, defined.c.day)
        return defined

    async def apply(self, connection: AsyncConnection, table: str, step: Step) -> None:
        """See :meth:`Projection.apply`."""
        volumes = list(summed(map(volume_of, step.changes)).values())
        if not volumes:
            return
        names = ", ".join(Volume.__struct_fields__)
        sums = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in SUMS)
        # Sorted, so that two writers that meet in a row do not wait for each other.
        await connection.execute(
            text(
                f"INSERT INTO {table} ({names}) SELECT {names} "
                f"FROM json_populate_recordset(CAST(NULL AS {table}), CAST(:rows AS json)) ORDER BY {', '.join(KEY)} "
                f"ON CONFLICT ({', '.join(KEY)}) DO UPDATE SET {sums}"
            ),
            {"rows": msgspec.json.encode([_spelled(volume) for volume in volumes]).decode()},
        )

    async def load(self, connection: AsyncConnection, table: str, step: Step) -> None:
        """See :meth:`Projection.load`."""
        await self.apply(connection, table, step)

    def fold(self, steps: Sequence[Step]) -> Mapping[Key, Mapping[str, Any]]:
        """See :meth:`Projection.fold`."""
        found = summed(volume_of(change) for step in steps for change in step.changes)
        values = [name for name in Volume.__struct_fields__ if name not in KEY]
        return {
            (date.fromisoformat(key[0]), *key[1:]): {name: getattr(volume, name) for name in values}
            for key, volume in found.items()
        }


def volume_of(change: Change) -> Volume:
    """Return what the order of a confirmation exchanged."""
    row = change.row
    assert row.amount_in is not None and row.amount_out is not None and row.fee is not None and row.venue is not None
    sells = row.side == "sell"
    base, quote = (row.amount_in, row.amount_out) if sells else (row.amount_out, row.amount_in)
    return Volume(
        day=change.frame.at[:_DAY_CHARACTERS],
        base_asset=row.base_asset,
        quote_asset=row.quote_asset,
        venue=row.venue,
        client_id=row.client_id or "",
        partition=row.partition,
        base_decimals=row.base_decimals,
        quote_decimals=row.quote_decimals,
        orders=1,
        base_units=base,
        quote_units=quote,
        base_fee=row.fee if sells else 0,
        quote_fee=0 if sells else row.fee,
    )


def summed(volumes: Iterable[Volume]) -> dict[Key, Volume]:
    """Return the sums of ``volumes`` by key."""
    found: dict[Key, Volume] = {}
    for volume in volumes:
        key = tuple(getattr(volume, name) for name in KEY)
        known = found.get(key)
        if known is not None:
            sums = {name: getattr(known, name) + getattr(volume, name) for name in SUMS}
            volume = msgspec.structs.replace(volume, **sums)
        found[key] = volume
    return found


def _spelled(volume: Volume) -> dict[str, Any]:
    # Sums may exceed 64 bits, which JSON integers of the encoder do not.
    return {**msgspec.structs.asdict(volume), **{name: str(getattr(volume, name)) for name in SUMS}}


PROJECTION: Final = Volumes()

volumes: Final = PROJECTION.define(metadata, PROJECTION.name)

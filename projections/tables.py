"""The tables as SQLAlchemy sees them. Keep in step with alembic/versions: a test compares the two."""

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    Index,
    Integer,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
    true,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql.base import ReadOnlyColumnCollection

_AMOUNTS: Final = ("amount", "amount_in", "amount_out", "fee", "network_fee")
_UNITS_LIMIT: Final = 2**64


def orders_table(metadata: MetaData, name: str) -> Table:
    """Define the orders table under ``name``; its constraints and indexes are called ``<name>_…``.

    ``amount`` is in the base asset's own unit; ``amount_in``, ``amount_out`` and ``fee`` are in base units of the asset
    paid in, received and paid in; ``network_fee`` is in lamports. ``venue``, ``tx_id`` and the failure are those of the
    latest attempt, or why the order was cancelled. ``limit_price`` is quote asset per base asset; it and
    ``time_in_force`` belong to limit orders alone, ``expire_at`` to orders with an end of their own.
    """
    table = Table(
        name,
        metadata,
        Column("id", Text, nullable=False),
        Column("client_id", Text),
        Column("side", Text, nullable=False),
        Column("type", Text, nullable=False),
        Column("base_asset", Text, nullable=False),
        Column("quote_asset", Text, nullable=False),
        Column("amount", Numeric(38, 18), nullable=False),
        Column("slippage_bps", Integer, nullable=False),
        Column("status", Text, nullable=False),
        Column("attempts", Integer, nullable=False),
        Column("venue", Text),
        Column("tx_id", Text),
        Column("amount_in", Numeric(20, 0)),
        Column("amount_out", Numeric(20, 0)),
        Column("fee", Numeric(20, 0)),
        Column("network_fee", Numeric(20, 0)),
        Column("base_decimals", SmallInteger, nullable=False),
        Column("quote_decimals", SmallInteger, nullable=False),
        Column("failure_code", Text),
        Column("failure_message", Text),
        Column("idempotency_key", Text),
        Column("fingerprint", Text),
        Column("version", Integer, nullable=False),
        Column("head_hash", Text, nullable=False),
        Column("partition", SmallInteger, nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False),
        Column("updated_at", DateTime(timezone=True), nullable=False),
        Column("limit_price", Numeric(38, 18)),
        Column("time_in_force", Text),
        Column("expire_at", DateTime(timezone=True)),
        PrimaryKeyConstraint("id", name=f"{name}_pkey"),
        *(
            CheckConstraint(f"{amount} >= 0 AND {amount} < {_UNITS_LIMIT}", name=f"{name}_{amount}_check")
            for amount in _AMOUNTS
        ),
        CheckConstraint("side IN ('buy', 'sell')", name=f"{name}_side_check"),
        CheckConstraint("version >= 1", name=f"{name}_version_check"),
    )
    _index_orders(table.c, name)
    return table


def _index_orders(columns: ReadOnlyColumnCollection[str, Column[Any]], name: str) -> None:
    Index(f"{name}_created", columns.created_at, columns.id)
    Index(f"{name}_client_created", columns.client_id, columns.created_at, columns.id)
    Index(f"{name}_status_created", columns.status, columns.created_at, columns.id)
    Index(
        f"{name}_idempotency",
        func.coalesce(columns.client_id, text("''::text")),
        columns.idempotency_key,
        unique=True,
        postgresql_where=columns.idempotency_key.is_not(None),
    )


metadata: Final = MetaData()

orders: Final = orders_table(metadata, "orders")

order_events: Final = Table(
    "order_events",
    metadata,
    Column("order_id", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("id", Text, Computed("order_id || '/' || version::text", persisted=True), nullable=False),
    Column("event", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("payload", JSONB, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("partition", SmallInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("commit_id", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Column("recorded_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("order_id", "version", name="order_events_pkey"),
    UniqueConstraint("partition", "position", name="order_events_position_key"),
    CheckConstraint("version >= 1", name="order_events_version_check"),
    CheckConstraint("position >= 1", name="order_events_position_check"),
)
"""The archive: every event, whole (``payload`` is the public frame), with its place in the log."""

checkpoints: Final = Table(
    "checkpoints",
    metadata,
    Column("projection", Text, nullable=False),
    Column("partition", SmallInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("anchor", Text, nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("projection", "partition", name="checkpoints_pkey"),
    CheckConstraint("position >= 0", name="checkpoints_position_check"),
)
"""How far each projection got in each partition; ``anchor`` is 8 hex digits of the last event's hash, "" at 0."""

store: Final = Table(
    "store",
    metadata,
    Column("single", Boolean, nullable=False, server_default=true()),
    Column("store_id", Text, nullable=False),
    Column("partitions", SmallInteger, nullable=False),
    PrimaryKeyConstraint("single", name="store_pkey"),
    CheckConstraint("single", name="store_single_check"),
)
"""The event store that this read model belongs to: at most one row."""

epochs: Final = Table(
    "epochs",
    metadata,
    Column("partition", SmallInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("incarnation", Text, nullable=False),
    Column("healed", BigInteger, nullable=False),
    Column("opened_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("partition", "epoch", name="epochs_pkey"),
    CheckConstraint("epoch >= 1", name="epochs_epoch_check"),
    CheckConstraint("position >= 0", name="epochs_position_check"),
    CheckConstraint("healed >= 0", name="epochs_healed_check"),
)
"""Each epoch of a partition, registered before it opens.

``position`` is the last one of the epochs before it: an event of theirs beyond it was lost with the server that had it.
``incarnation`` is the identity of the server's data, ``healed`` how many events were written back.
"""

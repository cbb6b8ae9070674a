"""The tables as SQLAlchemy sees them. Keep in step with alembic/versions: a test compares the two."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    func,
    true,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata: Final = MetaData()

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

"""The tables that every projection shares; those of read models stand in their modules under projections/models.

Keep in step with alembic/versions: a test compares the two.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

metadata: Final = MetaData()


def order_events_table(metadata: MetaData, name: str) -> Table:
    """Define the archive's table under ``name``; its constraints are called ``<name>_…``."""
    return Table(
        name,
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
        Column("data", LargeBinary),
        PrimaryKeyConstraint("order_id", "version", name=f"{name}_pkey"),
        UniqueConstraint("partition", "position", name=f"{name}_position_key"),
        CheckConstraint("version >= 1", name=f"{name}_version_check"),
        CheckConstraint("position >= 1", name=f"{name}_position_check"),
    )


order_events: Final = order_events_table(metadata, "order_events")
"""The archive: every event, whole (``payload`` is the public frame), with its place in the log.

``data`` is null but for bytes that are no published event, or that no column takes: then these are the event, and
``payload`` is JSON's null.
"""

checkpoints: Final = Table(
    "checkpoints",
    metadata,
    Column("projection", Text, nullable=False),
    Column("partition", SmallInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("anchor", Text, nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("recorded_at", DateTime(timezone=True)),
    PrimaryKeyConstraint("projection", "partition", name="checkpoints_pkey"),
    CheckConstraint("position >= 0", name="checkpoints_position_check"),
)
"""How far each projection got in each partition; ``anchor`` is 8 hex digits of the last event's hash, "" at 0.

``recorded_at`` is when that event was appended, by the clock of the event store's server.
"""

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

projectors: Final = Table(
    "projectors",
    metadata,
    Column("name", Text, nullable=False),
    Column("until", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("name", name="projectors_pkey"),
)
"""The projectors that live, each until it must have been heard of again."""

leases: Final = Table(
    "leases",
    metadata,
    Column("partition", SmallInteger, nullable=False),
    Column("owner", Text),
    Column("token", BigInteger, nullable=False, server_default=text("0")),
    Column("until", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("problem", Text),
    PrimaryKeyConstraint("partition", name="leases_pkey"),
)
"""Which projector owns a partition, until when; ``token`` grows with each new owner and fences the one before.

``problem`` says why the partition stands still; null while it does not.
"""

parked_events: Final = Table(
    "parked_events",
    metadata,
    Column("projection", Text, nullable=False),
    Column("order_id", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("partition", SmallInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("reason", Text),
    Column("recorded_at", DateTime(timezone=True), nullable=False),
    Column("told", ARRAY(Text), nullable=False, server_default="{}"),
    PrimaryKeyConstraint("projection", "order_id", "version", name="parked_events_pkey"),
)
"""Events that wait, in order, behind one of their order that could not be applied: that one has the ``reason``.

They are in the archive like all others. ``projection`` is ``orders``, or one of its other generations. ``told`` names
the other projections that know the event all the same: a former generation had applied it.
"""

skipped_events: Final = Table(
    "skipped_events",
    metadata,
    Column("order_id", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("skipped_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("order_id", "version", name="skipped_events_pkey"),
    CheckConstraint("version >= 2", name="skipped_events_version_check"),
)
"""Events that somebody decided to pass over: every fold, also a later one, leaves out what they say."""

rebuilds: Final = Table(
    "rebuilds",
    metadata,
    Column("projection", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("done", Text, nullable=False, server_default=""),
    Column("orders", BigInteger, nullable=False, server_default=text("0")),
    Column("events", BigInteger, nullable=False, server_default=text("0")),
    Column("total", BigInteger, nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("projection", name="rebuilds_pkey"),
    CheckConstraint("state IN ('filling', 'following', 'kept')", name="rebuilds_state_check"),
)
"""The rebuild of a projection that is under way, or whose old table is kept; at most one each.

``filling``: orders up to the id ``done`` are folded. ``following``: it catches up, by checkpoints of its own.
``kept``: it was swapped in, and the old one can be brought back. ``code`` names the fold that fills it.
"""

compatibility: Final = Table(
    "compatibility",
    metadata,
    Column("single", Boolean, nullable=False, server_default=true()),
    Column("oldest", Text, nullable=False),
    PrimaryKeyConstraint("single", name="compatibility_pkey"),
    CheckConstraint("single", name="compatibility_single_check"),
)
"""The oldest schema whose code still works on this one: one row, written by migrations."""

api_keys: Final = Table(
    "api_keys",
    metadata,
    Column("id", Text, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("client_id", Text),
    Column("roles", ARRAY(Text), nullable=False),
    Column("name", Text, nullable=False, server_default=""),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("revoked_at", DateTime(timezone=True)),
    PrimaryKeyConstraint("id", name="api_keys_pkey"),
    CheckConstraint(
        "roles <> '{}'::text[] AND roles <@ ARRAY['trader', 'auditor', 'admin']::text[]", name="api_keys_roles_check"
    ),
    CheckConstraint("client_id IS NOT NULL OR NOT 'trader' = ANY (roles)", name="api_keys_client_check"),
)
"""Who may use the API as what; ``hash`` is SHA-256 of the whole key, which is stored nowhere.

They are no projection of anything: a rebuild leaves them alone, and a backup of the database must have them.
"""

api_tickets: Final = Table(
    "api_tickets",
    metadata,
    Column("hash", LargeBinary, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("hash", name="api_tickets_pkey"),
)
"""Tickets that were not used yet; ``hash`` is SHA-256 of the ticket. Using one removes it."""

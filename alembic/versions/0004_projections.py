"""Owners of partitions, quarantined orders and parked events, rebuilds, daily volumes, and how fresh everything is."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

GENERATIONS = ("orders_next", "orders_old", "volumes_next", "volumes_old", "order_events_next")
TABLES = ("compatibility", "volumes", "rebuilds", "skipped_events", "parked_events", "leases", "projectors")


def upgrade() -> None:
    _extend_orders()
    op.add_column("order_events", sa.Column("data", sa.LargeBinary))
    op.add_column("checkpoints", sa.Column("recorded_at", sa.DateTime(timezone=True)))
    _create_owners()
    _create_parked()
    _create_rebuilds()
    _create_volumes()
    compatibility = op.create_table(
        "compatibility",
        sa.Column("single", sa.Boolean, nullable=False, server_default=sa.true()),
        sa.Column("oldest", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("single", name="compatibility_pkey"),
        sa.CheckConstraint("single", name="compatibility_single_check"),
    )
    op.bulk_insert(compatibility, [{"oldest": "0004"}])


def downgrade() -> None:
    for generation in GENERATIONS:
        op.execute(f"DROP TABLE IF EXISTS {generation}")
    # The next upgrade would take tables that it made anew, and empty, for the ones that had got that far.
    op.execute("DELETE FROM checkpoints WHERE projection <> 'orders'")
    for table in TABLES:
        op.drop_table(table)
    op.drop_column("checkpoints", "recorded_at")
    op.drop_column("order_events", "data")
    op.drop_index("orders_quality")
    op.drop_index("orders_client_status_created")
    op.drop_constraint("orders_quality_check", "orders")
    for column in ("quality_since", "quality_reason", "quality"):
        op.drop_column("orders", column)


def _extend_orders() -> None:
    op.add_column("orders", sa.Column("quality", sa.Text, nullable=False, server_default="ok"))
    op.add_column("orders", sa.Column("quality_reason", sa.Text))
    op.add_column("orders", sa.Column("quality_since", sa.DateTime(timezone=True)))
    op.create_check_constraint("orders_quality_check", "orders", "quality IN ('ok', 'quarantined', 'incomplete')")
    op.create_index("orders_client_status_created", "orders", ["client_id", "status", "created_at", "id"])
    op.create_index("orders_quality", "orders", ["id"], postgresql_where=sa.text("quality <> 'ok'::text"))


def _create_owners() -> None:
    op.create_table(
        "projectors",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="projectors_pkey"),
    )
    op.create_table(
        "leases",
        sa.Column("partition", sa.SmallInteger, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("token", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("problem", sa.Text),
        sa.PrimaryKeyConstraint("partition", name="leases_pkey"),
    )


def _create_parked() -> None:
    op.create_table(
        "parked_events",
        sa.Column("projection", sa.Text, nullable=False),
        sa.Column("order_id", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("partition", sa.SmallInteger, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("told", ARRAY(sa.Text), nullable=False, server_default="{}"),
        sa.PrimaryKeyConstraint("projection", "order_id", "version", name="parked_events_pkey"),
    )
    op.create_table(
        "skipped_events",
        sa.Column("order_id", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("skipped_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("order_id", "version", name="skipped_events_pkey"),
        sa.CheckConstraint("version >= 2", name="skipped_events_version_check"),
    )


def _create_rebuilds() -> None:
    op.create_table(
        "rebuilds",
        sa.Column("projection", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("code", sa.Text, nullable=False),
        sa.Column("done", sa.Text, nullable=False, server_default=""),
        sa.Column("orders", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("events", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("total", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("projection", name="rebuilds_pkey"),
        sa.CheckConstraint("state IN ('filling', 'following', 'kept')", name="rebuilds_state_check"),
    )


def _create_volumes() -> None:
    op.create_table(
        "volumes",
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("base_asset", sa.Text, nullable=False),
        sa.Column("quote_asset", sa.Text, nullable=False),
        sa.Column("venue", sa.Text, nullable=False),
        sa.Column("client_id", sa.Text, nullable=False),
        sa.Column("partition", sa.SmallInteger, nullable=False),
        sa.Column("base_decimals", sa.SmallInteger, nullable=False),
        sa.Column("quote_decimals", sa.SmallInteger, nullable=False),
        sa.Column("orders", sa.BigInteger, nullable=False),
        sa.Column("base_units", sa.Numeric(40, 0), nullable=False),
        sa.Column("quote_units", sa.Numeric(40, 0), nullable=False),
        sa.Column("base_fee", sa.Numeric(40, 0), nullable=False),
        sa.Column("quote_fee", sa.Numeric(40, 0), nullable=False),
        sa.PrimaryKeyConstraint(
            "day", "base_asset", "quote_asset", "venue", "client_id", "partition", name="volumes_pkey"
        ),
        sa.CheckConstraint("orders >= 1", name="volumes_orders_check"),
    )
    op.create_index("volumes_client_day", "volumes", ["client_id", "day"])

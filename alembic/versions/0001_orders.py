"""Orders, their events, checkpoints and the store they belong to."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_orders()
    _create_order_events()
    op.create_table(
        "checkpoints",
        sa.Column("projection", sa.Text, nullable=False),
        sa.Column("partition", sa.SmallInteger, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("anchor", sa.Text, nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("projection", "partition", name="checkpoints_pkey"),
        sa.CheckConstraint("position >= 0", name="checkpoints_position_check"),
    )
    op.create_table(
        "store",
        sa.Column("single", sa.Boolean, nullable=False, server_default=sa.true()),
        sa.Column("store_id", sa.Text, nullable=False),
        sa.Column("partitions", sa.SmallInteger, nullable=False),
        sa.PrimaryKeyConstraint("single", name="store_pkey"),
        sa.CheckConstraint("single", name="store_single_check"),
    )


def downgrade() -> None:
    for table in ("store", "checkpoints", "order_events", "orders"):
        op.drop_table(table)


def _create_orders() -> None:
    op.create_table(
        "orders",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("client_id", sa.Text),
        sa.Column("side", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("base_asset", sa.Text, nullable=False),
        sa.Column("quote_asset", sa.Text, nullable=False),
        sa.Column("amount", sa.Numeric(38, 18), nullable=False),
        sa.Column("slippage_bps", sa.Integer, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("venue", sa.Text),
        sa.Column("tx_id", sa.Text),
        sa.Column("amount_in", sa.Numeric(20, 0)),
        sa.Column("amount_out", sa.Numeric(20, 0)),
        sa.Column("fee", sa.Numeric(20, 0)),
        sa.Column("network_fee", sa.Numeric(20, 0)),
        sa.Column("base_decimals", sa.SmallInteger, nullable=False),
        sa.Column("quote_decimals", sa.SmallInteger, nullable=False),
        sa.Column("failure_code", sa.Text),
        sa.Column("failure_message", sa.Text),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("fingerprint", sa.Text),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("head_hash", sa.Text, nullable=False),
        sa.Column("partition", sa.SmallInteger, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="orders_pkey"),
        *(
            sa.CheckConstraint(f"{amount} >= 0 AND {amount} < {2**64}", name=f"orders_{amount}_check")
            for amount in ("amount", "amount_in", "amount_out", "fee", "network_fee")
        ),
        sa.CheckConstraint("side IN ('buy', 'sell')", name="orders_side_check"),
        sa.CheckConstraint("version >= 1", name="orders_version_check"),
    )
    op.create_index("orders_created", "orders", ["created_at", "id"])
    op.create_index("orders_client_created", "orders", ["client_id", "created_at", "id"])
    op.create_index("orders_status_created", "orders", ["status", "created_at", "id"])
    op.create_index(
        "orders_idempotency",
        "orders",
        [sa.text("coalesce(client_id, ''::text)"), "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )


def _create_order_events() -> None:
    op.create_table(
        "order_events",
        sa.Column("order_id", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("id", sa.Text, sa.Computed("order_id || '/' || version::text", persisted=True), nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("payload", JSONB, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("partition", sa.SmallInteger, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("commit_id", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("order_id", "version", name="order_events_pkey"),
        sa.UniqueConstraint("partition", "position", name="order_events_position_key"),
        sa.CheckConstraint("version >= 1", name="order_events_version_check"),
        sa.CheckConstraint("position >= 1", name="order_events_position_check"),
    )

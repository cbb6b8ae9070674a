"""What limit orders, and orders with an end of their own, ask for."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("orders", sa.Column("limit_price", sa.Numeric(38, 18)))
    op.add_column("orders", sa.Column("time_in_force", sa.Text))
    op.add_column("orders", sa.Column("expire_at", sa.DateTime(timezone=True)))


def downgrade() -> None:
    for column in ("expire_at", "time_in_force", "limit_price"):
        op.drop_column("orders", column)

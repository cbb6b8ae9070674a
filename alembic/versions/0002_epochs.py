"""The epochs of each partition of the event store, registered before they are opened."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "epochs",
        sa.Column("partition", sa.SmallInteger, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("incarnation", sa.Text, nullable=False),
        sa.Column("healed", sa.BigInteger, nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("partition", "epoch", name="epochs_pkey"),
        sa.CheckConstraint("epoch >= 1", name="epochs_epoch_check"),
        sa.CheckConstraint("position >= 0", name="epochs_position_check"),
        sa.CheckConstraint("healed >= 0", name="epochs_healed_check"),
    )


def downgrade() -> None:
    op.drop_table("epochs")

"""Keys of the API, and the tickets that stand for them once.

The oldest code that works on this schema stays the one before: it knows no keys, but it refuses ORDERTAPE_AUTH as
unknown, so that it does not answer everybody where keys are asked for.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.Column("client_id", sa.Text),
        sa.Column("roles", ARRAY(sa.Text), nullable=False),
        sa.Column("name", sa.Text, nullable=False, server_default=""),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("revoked_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="api_keys_pkey"),
        sa.CheckConstraint(
            "roles <> '{}'::text[] AND roles <@ ARRAY['trader', 'auditor', 'admin']::text[]",
            name="api_keys_roles_check",
        ),
        sa.CheckConstraint("client_id IS NOT NULL OR NOT 'trader' = ANY (roles)", name="api_keys_client_check"),
    )
    op.create_table(
        "api_tickets",
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("hash", name="api_tickets_pkey"),
    )
    op.execute("UPDATE compatibility SET oldest = '0004'")


def downgrade() -> None:
    op.drop_table("api_tickets")
    op.drop_table("api_keys")

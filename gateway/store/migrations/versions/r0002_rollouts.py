"""What rollouts need: rollouts, the journal, idempotency keys, the leader, and what replicas tell each other."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the tables, and the one row of `leader`."""
    op.create_table(
        "rollouts",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("alias", sa.Text, nullable=False),
        sa.Column("is_open", sa.Boolean, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="rollouts_pkey"),
    )
    op.create_index(
        "rollouts_open", "rollouts", ["alias"], unique=True,
        sqlite_where=sa.text("is_open"), postgresql_where=sa.text("is_open"),
    )  # fmt: skip
    op.create_index("rollouts_alias", "rollouts", ["alias", "position"])
    op.create_table(
        "journal",
        sa.Column("number", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("previous", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("number", name="journal_pkey"),
    )
    op.create_table(
        "idempotency",
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("body", sa.Text),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("key", name="idempotency_pkey"),
    )
    op.create_index("idempotency_expires", "idempotency", ["expires"])
    leader = op.create_table(
        "leader",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("beats", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="leader_pkey"),
    )
    op.bulk_insert(leader, [{"id": 1, "holder": "", "beats": 0}])
    op.create_table(
        "replicas",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("beats", sa.BigInteger, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="replicas_pkey"),
    )
    op.create_table(
        "tallies",
        sa.Column("rollout", sa.Text, nullable=False),
        sa.Column("stage", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("replica", sa.Text, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("rollout", "stage", "replica", name="tallies_pkey"),
    )

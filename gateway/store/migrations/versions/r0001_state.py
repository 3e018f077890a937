"""What was in state.json and fingerprints/: keys, adapters, routes with their history, fingerprints."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables, and the one row of `state`."""
    state = op.create_table(
        "state",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("journal_number", sa.BigInteger, nullable=False),
        sa.Column("journal_hash", sa.Text, nullable=False),
        sa.Column("moved", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="state_pkey"),
    )
    op.bulk_insert(
        state, [{"id": 1, "version": 0, "fence": 0, "journal_number": 0, "journal_hash": "", "moved": ""}]
    )  # fmt: skip
    op.create_table(
        "keys",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="keys_pkey"),
    )
    op.create_index("keys_digest", "keys", ["digest"], unique=True)
    op.create_table(
        "adapters",
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("version", name="adapters_pkey"),
    )
    op.create_index("adapters_name", "adapters", ["name"])
    _make_routes()


def _make_routes() -> None:
    op.create_table(
        "routes",
        sa.Column("alias", sa.Text, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("alias", name="routes_pkey"),
    )
    op.create_table(
        "route_versions",
        sa.Column("alias", sa.Text, nullable=False),
        sa.Column("number", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("alias", "number", name="route_versions_pkey"),
    )
    op.create_table(
        "fingerprints",
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("engine", sa.Text, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("version", "engine", name="fingerprints_pkey"),
    )

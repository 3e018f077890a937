"""What shadow evaluation needs: samples, pairs, what judging cost, feedback, baselines, turns, evaluators."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the tables, and the rows of `counters`."""
    _make_samples()
    _make_pairs()
    _make_feedback()
    op.create_table(
        "baselines",
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("version", name="baselines_pkey"),
    )
    op.create_table(
        "turns",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("name", name="turns_pkey"),
    )
    op.create_table(
        "evaluators",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("seen", sa.Double, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="evaluators_pkey"),
    )


def _make_samples() -> None:
    op.create_table(
        "samples",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("alias", sa.Text, nullable=False),
        sa.Column("state", sa.Integer, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("ready", sa.Double, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("died", sa.Integer, nullable=False),
        sa.Column("keeps", sa.Boolean, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="samples_pkey"),
    )
    op.create_index("samples_due", "samples", ["state", "at"])
    op.create_table(
        "sample_texts",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="sample_texts_pkey"),
    )
    op.create_index("sample_texts_expires", "sample_texts", ["expires", "size"])
    op.create_table(
        "spending",
        sa.Column("alias", sa.Text, nullable=False),
        sa.Column("slot", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("alias", "slot", "holder", name="spending_pkey"),
    )


def _make_pairs() -> None:
    counters = op.create_table(
        "counters",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="counters_pkey"),
    )
    op.bulk_insert(counters, [{"name": "pairs", "value": 0}, {"name": "forgetting", "value": 0}])
    op.create_table(
        "pairs",
        sa.Column("number", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("sample", sa.Text, nullable=False),
        sa.Column("alias", sa.Text, nullable=False),
        sa.Column("rollout", sa.Text, nullable=False),
        sa.Column("stage", sa.Integer, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pairs_pkey"),
    )
    op.create_index("pairs_sample", "pairs", ["sample"], unique=True)
    op.create_index("pairs_alias", "pairs", ["alias", "number"])
    op.create_index("pairs_rollout", "pairs", ["rollout", "number"])
    op.create_index("pairs_alias_at", "pairs", ["alias", "at", "number"])
    op.create_index("pairs_at", "pairs", ["at", "number"])
    op.create_table(
        "pair_words",
        sa.Column("sample", sa.Text, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("sample", name="pair_words_pkey"),
    )
    op.create_index("pair_words_expires", "pair_words", ["expires"])


def _make_feedback() -> None:
    op.create_table(
        "feedback",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("rollout", sa.Text, nullable=False),
        sa.Column("stage", sa.Integer, nullable=False),
        sa.Column("arm", sa.Text, nullable=False),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("is_bad", sa.Boolean),
        sa.Column("is_resolved", sa.Boolean, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="feedback_pkey"),
    )
    op.create_index("feedback_rollout", "feedback", ["rollout", "stage", "arm", "account", "is_bad"])
    op.create_index("feedback_unresolved", "feedback", ["is_resolved", "at"])
    op.create_index("feedback_at", "feedback", ["at"])

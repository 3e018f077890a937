"""Feedback is counted by unit."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the mark of the unit; of what was said before it is not known."""
    op.add_column("feedback", sa.Column("unit", sa.Text, nullable=False, server_default=""))

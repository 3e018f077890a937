"""Where migrations begin. A new store is made from `schema.py` whole, so there is nothing to do here.

Schemas 0001 to 0003 were never released. The first migration names this one as its `down_revision`.
"""

revision = "0004"
down_revision = None


def upgrade() -> None:
    """Do nothing: no store is older than this."""

"""How a store of one release becomes that of the next: Alembic's scripts, run by `migrate.py`."""

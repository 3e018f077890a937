"""Alembic's scripts that migrate a store from one release's schema to the next; run by `migrate.py`."""

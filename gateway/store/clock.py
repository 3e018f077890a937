"""The database's clock, by which all leases are measured, so that the clocks of gateways need not agree."""

from sqlalchemy import ColumnElement, Connection, Double, literal_column

# Not `now()`, which stands still during a transaction, however long that has waited for a lock.
_POSTGRES = literal_column("CAST(extract(epoch FROM clock_timestamp()) AS double precision)", Double)
_SQLITE = literal_column("(julianday('now') - 2440587.5) * 86400.0", Double)


def now_of(connection: Connection) -> ColumnElement[float]:
    """Return an expression for the database's time, Unix seconds, to the millisecond."""
    return _POSTGRES if connection.dialect.name == "postgresql" else _SQLITE

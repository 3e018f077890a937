"""What the gateway remembers: keys, catalog, routes; and the table that workers serve from."""

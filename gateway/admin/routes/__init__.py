"""Routes: declared in files, planned, applied, looked back at."""

"""Keys: make, rotate and revoke them."""

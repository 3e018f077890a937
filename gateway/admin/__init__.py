"""The control plane: the admin API, and the operations behind it."""

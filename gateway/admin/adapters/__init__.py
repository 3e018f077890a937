"""Adapters in the control plane: fetch and verify, register, remove, fuse and scale them."""

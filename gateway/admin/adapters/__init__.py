"""Adapters: bring them in, register, remove, fuse and scale them."""

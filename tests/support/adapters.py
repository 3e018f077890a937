"""Adapter folders that a gateway takes: a seed is another content, and so another version."""

from pathlib import Path

from tests.support.adapter_folders import write_adapter


def adapter_folder(folder: Path, seed: int) -> Path:
    """Write an adapter and return its folder."""
    return write_adapter(folder, seed)

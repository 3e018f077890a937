"""Bytes cut into pieces."""

from itertools import pairwise


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Return `data` in parts."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[first:last] for first, last in pairwise(edges)]

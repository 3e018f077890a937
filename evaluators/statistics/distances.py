"""Distances between two distributions over categories: for reports and limits set by people, not for gates.

Both are made of counts and both are finite whatever is empty. Neither knows how much data stands behind it: two
draws of one mix, n and m observations, look apart by (categories - 1) · (1/n + 1/m) on average for PSI, and by an
eighth of that over ln 2 for Jensen-Shannon (docs/statistics.md has a table). So alarms come from `detector`, and these
say how big what was found is.
"""

from collections.abc import Iterable, Mapping
from math import log, log2
from typing import Final

# Added to every category, seen or not (Krichevsky and Trofimov 1981, doi:10.1109/TIT.1981.1056331): so that a
# category which only one side has makes the index large and not infinite.
_HALF: Final = 0.5


def psi(reference: Mapping[str, int], current: Mapping[str, int]) -> float:
    """Return the population stability index, Σ (q - p) ln(q / p), at least 0.

    Rules of thumb: below 0.1 the same, from 0.25 on another population.

    Args:
        reference, current: Category → count. 0 is returned where there are none, or one side is empty.

    Source: S. Kullback and R. Leibler (1951), Ann. Math. Statist. 22(1), 79-86, doi:10.1214/aoms/1177729694 (the
    symmetric divergence); B. Yurdakul and J. Naranjo (2020), J. Risk Model Valid. 14(4), doi:10.21314/JRMV.2020.227
    (its distribution, and the rules). Changed: half a count is added to each category.
    """
    names = _names(reference, current)
    if not names or not sum(reference.values()) or not sum(current.values()):
        return 0.0
    expected, found = _shares(reference, names, _HALF), _shares(current, names, _HALF)
    return sum((now - before) * log(now / before) for before, now in zip(expected, found, strict=True))


def jensen_shannon(reference: Mapping[str, int], current: Mapping[str, int]) -> float:
    """Return the Jensen-Shannon divergence in bits: 0 for the same, 1 for nothing in common.

    Args:
        reference, current: Category → count. 0 is returned where one side is empty.

    Source: J. Lin (1991), IEEE Trans. Inf. Theory 37(1), 145-151, doi:10.1109/18.61115. Nothing was changed.
    """
    names = _names(reference, current)
    if not names or not sum(reference.values()) or not sum(current.values()):
        return 0.0
    total = 0.0
    for before, now in zip(_shares(reference, names, 0.0), _shares(current, names, 0.0), strict=True):
        middle = (before + now) / 2
        total += sum(share * log2(share / middle) for share in (before, now) if share > 0) / 2
    return min(1.0, max(0.0, total))


def _names(reference: Mapping[str, int], current: Mapping[str, int]) -> list[str]:
    return sorted({name for counts in (reference, current) for name, count in counts.items() if count})


def _shares(counts: Mapping[str, int], names: Iterable[str], extra: float) -> list[float]:
    raw = [counts.get(name, 0) + extra for name in names]
    return [count / sum(raw) for count in raw]

"""Correct for testing many criteria at once: share out alpha, or select among e-values.

`bonferroni` bounds the chance that *any* harmless criterion ever fails, whatever the others
do: for gates. `e_bh` bounds the expected share of false ones among those it names, and while no
criterion is truly beyond its margin also the chance of naming any: for reports over many metrics and
aliases. Both hold whatever the criteria have to do with each other, and at every look.

Source: R. Wang and A. Ramdas (2022), JRSS-B 84(3), 822-852, doi:10.1111/rssb.12489 (e-BH).
"""

from collections.abc import Sequence


def bonferroni(alpha: float, count: int) -> float:
    """Return each of `count` criteria's part of `alpha`; all of it where there is none or one.

    Raises:
        ValueError: `alpha` is out of range.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha `{alpha}` is not between 0 and 1")
    return alpha / max(1, count)


def e_bh(e_values: Sequence[float], alpha: float) -> tuple[bool, ...]:
    """Return which hypotheses e-BH rejects, in the order given.

    The k largest, where k is the greatest with k · e_(k) ≥ count / alpha.

    Args:
        e_values: Not below 0; infinity is allowed.
        alpha: In (0, 1): the false discovery rate.

    Raises:
        ValueError: `alpha` is out of range, or an e-value is below 0 or no number.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha `{alpha}` is not between 0 and 1")
    for value in e_values:
        if not value >= 0:
            raise ValueError(f"e-value `{value}` is not a number of at least 0")
    ranked = sorted(e_values, reverse=True)
    count = len(ranked)
    passing = [rank for rank, value in enumerate(ranked, 1) if rank * value >= count / alpha]
    if not passing:
        return (False,) * count
    least = ranked[passing[-1] - 1]
    return tuple(value >= least for value in e_values)

"""Decide from shapes alone whether parents fit together, and which rank the result has."""

from collections.abc import Sequence

from adapters.fusion.methods import BY_FACTORS
from adapters.fusion.source import ParentAdapter
from adapters.problem import render
from adapters.recipe import CannotFuse, Method, Recipe


def all_modules(sources: Sequence[ParentAdapter]) -> tuple[str, ...]:
    """Return the names of all modules that any of `sources` changes, sorted."""
    return tuple(sorted({module for source in sources for module in source.slots}))


def check_agreement(recipe: Recipe, sources: Sequence[ParentAdapter]) -> tuple[str, ...]:
    """Check that the parents can be fused; return warnings for the operator.

    Raises:
        CannotFuse: They change the same modules in different shapes.
    """
    _check_shapes(sources)
    return (*_base_warnings(sources), *_weight_warnings(recipe), *_module_warnings(sources))


def result_rank(recipe: Recipe, sources: Sequence[ParentAdapter]) -> int:
    """Return the rank of the result: the largest that any of its modules needs.

    Raises:
        CannotFuse: The method needs equal ranks, and they differ.
    """
    ranks = {
        module: [source.slots[module].rank for source in sources if module in source.slots]
        for module in all_modules(sources)
    }
    if recipe.method in BY_FACTORS:
        _check_equal(recipe, sources, ranks)
    largest = max(max(each) for each in ranks.values())
    together = max(sum(each) for each in ranks.values())
    if recipe.method is Method.CAT or (recipe.method is Method.SLERP and recipe.rank is None):
        return together
    return min(recipe.rank or largest, together)


def _check_equal(recipe: Recipe, sources: Sequence[ParentAdapter], ranks: dict[str, list[int]]) -> None:
    for module, each in ranks.items():
        if len(set(each)) > 1:
            found = ", ".join(f"`{s.version}` {s.slots[module].rank}" for s in sources if module in s.slots)
            raise CannotFuse(
                "ranks",
                f"`{recipe.method}` needs parents of equal rank, and on `{module}` they are: {found}",
                "use `cat`, which is exact, or `svd`",
            )


def _check_shapes(sources: Sequence[ParentAdapter]) -> None:
    for module in all_modules(sources):
        found = [(s.version, s.slots[module].n_in, s.slots[module].n_out) for s in sources if module in s.slots]
        for version, n_in, n_out in found[1:]:
            if (n_in, n_out) != found[0][1:]:
                raise CannotFuse(
                    "shapes",
                    f"`{module}` is {found[0][1]}→{found[0][2]} in `{found[0][0]}` and {n_in}→{n_out} in `{version}`: "
                    "they are of different base models",
                    "fuse adapters of one base model",
                )
    if len({bool(source.config.get("fan_in_fan_out")) for source in sources}) > 1:
        raise CannotFuse(
            "fan_in_fan_out",
            "the parents differ in `fan_in_fan_out`, which the base decides",
            "fuse adapters of one base model",
        )


def _base_warnings(sources: Sequence[ParentAdapter]) -> tuple[str, ...]:
    # Only a warning, because people name one base by a path, by its hub name, or by the name of a quantised copy.
    names = [(source.version, str(source.config.get("base_model_name_or_path") or "")) for source in sources]
    different = {name: version for version, name in reversed(names) if name}
    if len(different) < 2:
        return ()
    listed = ", ".join(f"`{render(name)}` (`{version}`)" for name, version in sorted(different.items()))
    return (f"the parents name different bases: {listed}; shapes fit, whether the weights do only you can tell",)


def _weight_warnings(recipe: Recipe) -> tuple[str, ...]:
    return tuple(
        f"`{parent.version}` has the negative weight {parent.weight:g}: what it learned is subtracted"
        for parent in recipe.parents
        if parent.weight < 0
    )


def _module_warnings(sources: Sequence[ParentAdapter]) -> tuple[str, ...]:
    modules = len(all_modules(sources))
    return tuple(
        f"`{source.version}` changes {len(source.slots)} of the {modules} modules; in the others it counts as zero"
        for source in sources
        if len(source.slots) < modules
    )

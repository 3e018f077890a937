"""One fusion from start to end: read the parents, check that they fit, fuse module by module, measure, write.

The same recipe on the same parents writes the same bytes, on the same machine with the same libraries: modules are
processed in order of their names, random numbers come from the recipe's seed, and only one thread runs, since the
number of threads determines the order of summation.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import reduce
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from adapters.fusion import factors, methods
from adapters.fusion.agreement import all_modules, check_agreement, result_rank
from adapters.fusion.factors import Factors
from adapters.fusion.methods import BY_FACTORS, Part
from adapters.fusion.outcome import ErrorSummary, FusionReport
from adapters.fusion.source import ParentAdapter, Tensors, read_source
from adapters.fusion.writing import check_free, discard, name_tensors, result_config, write
from adapters.recipe import CannotFuse, Method, Recipe, complete

if TYPE_CHECKING:
    from torch import Tensor

# Called with the number of modules that are done, and of all modules.
Progress = Callable[[int, int], None]
INSTALL: Final = "pip install 'loragate[cpu]', or 'loragate[gpu]' beside an NVIDIA GPU"


def fuse(
    recipe: Recipe, folders: Mapping[str, Path], out: Path, *, max_rank: int | None, progress: Progress | None = None
) -> FusionReport:
    """Make the version that `recipe` describes, as a PEFT adapter folder at `out`.

    This blocks, and imports torch: the gateway calls `process.fuse_apart`.

    Args:
        recipe: A recipe that `adapters.recipe.complete` has completed.
        folders: The folder of each parent's version.
        out: A folder that is empty or does not exist; on failure it stays so.
        max_rank: The largest rank that the engines take; None for any.
        progress: Called after each module.

    Raises:
        CannotFuse: The message names the value, `remedy` says what to do instead.
    """
    recipe = complete(recipe)
    _check_installed(recipe.method)
    for parent in recipe.parents:
        if parent.version not in folders:
            raise CannotFuse("unknown_parent", f"`{parent.version}` has no folder", "give registered versions")
    check_free(out, folders.values())
    sources = [read_source(parent.version, folders[parent.version]) for parent in recipe.parents]
    warnings = check_agreement(recipe, sources)
    with _one_thread():
        work = _Work(recipe, sources, max_rank)
        if recipe.method in BY_FACTORS:
            import_module("peft.utils.merge_utils")  # takes seconds: after the checks, and before the time is measured
        started = time.monotonic()
        tensors = work.run(progress)
    config = dict(sources[0].config) if recipe.method is Method.SCALE else result_config(sources, work.rank)
    try:
        size = write(out, config, tensors)
    except BaseException:  # interruptions included: no partial adapter is left
        discard(out)
        raise
    return FusionReport(
        rank=work.rank,
        size_bytes=size,
        modules=len(work.modules),
        dtype=work.dtype_name,
        errors=ErrorSummary.of(work.errors),
        seconds=time.monotonic() - started,
        warnings=warnings,
    )


class _Work:
    """A running fusion: values that are fixed before it starts, and the errors measured so far."""

    def __init__(self, recipe: Recipe, sources: Sequence[ParentAdapter], max_rank: int | None) -> None:
        self.recipe = recipe
        self.sources = sources
        self.modules = all_modules(sources)
        self.rank = result_rank(recipe, sources)
        self.errors: dict[str, float] = {}
        self._largest_share = 0.0
        self._dtype = _widest(sources)
        self.dtype_name = str(self._dtype).removeprefix("torch.")
        # `slerp` goes from one parent to the other: only the ratio of its weights matters, not their sum.
        whole = sum(parent.weight for parent in recipe.parents) if recipe.method is Method.SLERP else 1.0
        self._weights = [parent.weight / whole for parent in recipe.parents]
        if max_rank is not None and self.rank > max_rank:
            self._refuse(max_rank)

    def run(self, progress: Progress | None) -> "dict[str, Tensor]":
        """Fuse every module and return the tensors by name."""
        import torch

        tensors: dict[str, Tensor] = {}
        with self._open_files() as files, torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed or 0)
            for done, module in enumerate(self.modules, 1):
                parts = self._parts(module, files)
                tensors |= self._fuse_module(module, parts)
                if progress is not None:
                    progress(done, len(self.modules))
        # If the parents cancel out, the result is only their rounding errors.
        if not self.recipe.is_null and self._largest_share <= torch.finfo(self._dtype).eps:
            raise CannotFuse(
                "nothing_left",
                f"`{self.recipe.method}` of these parents adds nothing to the base: they are zero, or cancel out",
                "use other weights, a higher density or other parents (`scale` by 0 makes an empty one on purpose)",
            )
        return tensors

    def _fuse_module(self, module: str, parts: Sequence[Part]) -> "dict[str, Tensor]":
        """Return the tensors of one fused module, and record its error."""
        import torch

        if self.recipe.method is Method.SCALE:
            (part,), slot = parts, self.sources[0].slots[module]
            a, b = part.factors.a, part.factors.in_dtype(torch.float64).times(part.weight).b
            result, scaling = Factors(a, b.to(part.factors.b.dtype)), part.scaling
            tensors = {slot.name_a: result.a, slot.name_b: result.b}
        else:
            result, scaling = self._combine(parts).pad(self.rank).in_dtype(self._dtype), 1.0
            tensors = name_tensors(module, result)
        if not (result.a.isfinite().all() and result.b.isfinite().all()):
            raise CannotFuse(
                "overflow",
                f"values of `{module}` pass the largest {self.dtype_name} with these weights",
                "use smaller weights",
            )
        exact = [part.delta() for part in parts]
        error, share = factors.compare(result.in_dtype(torch.float64).times(scaling), exact)
        if error is not None:
            self.errors[module] = error
        self._largest_share = max(self._largest_share, share)
        return tensors

    def _combine(self, parts: Sequence[Part]) -> Factors:
        if self.recipe.method in BY_FACTORS:
            return methods.by_factors(self.recipe.method, parts, self.recipe.density)
        exact = self._exact(parts)
        return factors.truncate(exact, self.rank)[0] if exact.rank > self.rank else exact

    def _exact(self, parts: Sequence[Part]) -> Factors:
        """Return the result of `cat`, `svd` or `slerp` before the rank is reduced."""
        return methods.slerp(parts) if self.recipe.method is Method.SLERP else methods.linear_sum(parts)

    def _parts(self, module: str, files: Sequence[Tensors]) -> list[Part]:
        found = ((file, file.read(module), weight) for file, weight in zip(files, self._weights, strict=True))
        return [
            Part(factors=read, scaling=file.source.slots[module].scaling, weight=weight)
            for file, read, weight in found
            if read is not None
        ]

    @contextmanager
    def _open_files(self) -> Iterator[list[Tensors]]:
        with ExitStack() as stack:
            yield [stack.enter_context(source.open()) for source in self.sources]

    def _refuse(self, max_rank: int) -> NoReturn:
        """Refuse a rank beyond the engines' limit, and say the error of the best result within the limit."""
        losses: dict[str, float] = {}
        with self._open_files() as files:
            for module in self.modules:
                exact = self._exact(self._parts(module, files))
                if whole := factors.norm(exact):
                    losses[module] = factors.truncate(exact, max_rank)[1] / whole
        offer = f"`{Method.SLERP if self.recipe.method is Method.SLERP else Method.SVD}` with rank {max_rank}"
        lost = ErrorSummary.of(losses)
        price = f"; its relative error would be {lost}" if lost is not None else ""
        raise CannotFuse(
            "max_rank",
            f"`{self.recipe.method}` makes rank {self.rank}, and the engines take {max_rank} at most",
            f"use {offer}{price}; or start the engines with a larger --max-lora-rank",
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Have torch use one thread meanwhile: for small matrices more are slower, and would take CPU time from serving."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _widest(sources: Sequence[ParentAdapter]) -> Any:
    """Return the torch dtype that holds every parent's values; float32 for float16 together with bfloat16."""
    import torch

    kinds = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    names = {name for source in sources for slot in source.slots.values() for name in slot.dtypes}
    return reduce(torch.promote_types, (kinds[name] for name in sorted(names)))


def _check_installed(method: Method) -> None:
    for library in ("torch", "safetensors", *(["peft"] if method in BY_FACTORS else [])):
        if find_spec(library) is None:
            raise CannotFuse("not_installed", f"fusing by `{method}` needs {library}, which is not installed", INSTALL)

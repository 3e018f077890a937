"""Rules for the values: all must be finite, and not all may be zero.

The bit pattern of a float without its sign grows with the magnitude and ends in infinity and NaN. So the largest
pattern shows whether any value is not finite, whether a half-precision engine can hold all of them, and whether there
are any but zeros. This takes one pass for every dtype, without torch.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from adapters.lora_names import Parts
from adapters.problem import Problem, Severity, render
from adapters.safetensors_file import Tensor

# dtype → (unsigned integer of its width, mask of all but the sign, the first bit pattern that is not finite).
# E4M3 has no infinity and one NaN, all ones (Micikevicius et al. (2022), FP8 formats, table 1).
_FORMS: Final[Mapping[str, tuple[str, int, int]]] = {
    "F64": ("<u8", 0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7FFF_FFFF, 0x7F80_0000),
    "F16": ("<u2", 0x7FFF, 0x7C00),
    "BF16": ("<u2", 0x7FFF, 0x7F80),
    "F8_E5M2": ("u1", 0x7F, 0x7C),
    "F8_E4M3": ("u1", 0x7F, 0x7F),
}
# The bit patterns of 65,520, the first number that rounds to infinity in F16, in the wider dtypes.
_OVERFLOWS_F16: Final[Mapping[str, int]] = {"F64": 0x40EF_FE00_0000_0000, "F32": 0x477F_F000, "BF16": 0x4780}


class Magnitudes:
    """The largest bit pattern without sign of each tensor, collected piece by piece."""

    def __init__(self) -> None:
        self.largest: dict[str, int] = {}

    def see(self, tensor: Tensor, piece: memoryview) -> None:
        """Add one piece of a tensor; a piece holds whole values."""
        form = _FORMS.get(tensor.dtype)
        if form is None:
            return
        import numpy

        kind, mask, _ = form
        values = numpy.frombuffer(piece, dtype=kind)
        found = int((values & values.dtype.type(mask)).max()) if len(values) else 0
        self.largest[tensor.name] = max(found, self.largest.get(tensor.name, 0))


def value_problems(tensors: Mapping[str, Tensor], parts: Parts, magnitudes: Magnitudes) -> Iterator[Problem]:
    """Yield the problems of the values."""
    for name, largest in magnitudes.largest.items():
        yield from finite(tensors[name], largest)
        yield from overflow(tensors[name], largest)
    yield from some_effect(parts, magnitudes)


def finite(tensor: Tensor, largest: int) -> Iterator[Problem]:
    """Refuse NaN and infinity: a single one makes every answer useless."""
    if largest >= _FORMS[tensor.dtype][2]:
        yield Problem(
            code="not_finite",
            message="it has values that are NaN or infinite",
            value="NaN or infinity",
            limit="finite values",
            remedy="train again with a lower learning rate or in float32; give the last good checkpoint",
            where=f"tensor `{render(tensor.name)}`",
        )


def overflow(tensor: Tensor, largest: int) -> Iterator[Problem]:
    """Warn of values that become infinite in an engine that runs in float16."""
    first = _OVERFLOWS_F16.get(tensor.dtype)
    if first is not None and first <= largest < _FORMS[tensor.dtype][2]:
        yield Problem(
            code="overflows_float16",
            message="it has values that are infinite in float16",
            value=f"0x{largest:x}",
            limit="below 65,520",
            remedy="serve it in bfloat16 or float32",
            severity=Severity.WARNING,
            where=f"tensor `{render(tensor.name)}`",
        )


def some_effect(parts: Parts, magnitudes: Magnitudes) -> Iterator[Problem]:
    """Warn of an adapter whose changes are all zero: it was never trained, and has the base's answers."""
    seen = [
        min(magnitudes.largest.get(pair.a.name, 1), magnitudes.largest.get(pair.b.name, 1))
        for pair in parts.pairs.values()
        if pair.a is not None and pair.b is not None
    ]
    if seen and not any(seen):
        yield Problem(
            code="no_effect",
            message="A or B is zero in every module: the adapter changes nothing",
            value=0,
            limit="values other than 0",
            remedy="train it, or serve the base under this name",
            severity=Severity.WARNING,
        )

"""Parse safetensors files: the header's size is checked before it is read, and the tensors must fill the file.

This is stricter than the format's own library: duplicate names, unknown fields and empty tensors are refused, so that
no bytes can hide where only some readers look. Source: huggingface/safetensors 0.8, `safetensors/src/tensor.rs`.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, BinaryIO, Final

from adapters import strict_json
from adapters.problem import Problem, render
from adapters.stand_ins import HEAD_BYTES, stand_in

# Bits of each of the format's dtypes.
BITS: Final[Mapping[str, int]] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
# The format allows 100 MB, which takes Python 1 GB to parse. The largest header that we know, a rank for every
# expert of a 94-layer mixture of 128, has 72,000 tensors in 10 MB.
MAX_HEADER_BYTES: Final = 16_000_000
MAX_TENSORS: Final = 100_000
# A LoRA matrix has two dimensions, a convolution's four; PyTorch's own bound for printing is 64.
MAX_DIMENSIONS: Final = 8
# Bytes that are read at a time: few enough to bound memory, enough to keep the disk busy.
CHUNK_BYTES: Final = 4_194_304
# Bounds on a header's brackets and commas, which bound the memory that parsing can allocate.
_MAX_BRACKETS: Final = 3 * MAX_TENSORS + 16
_MAX_COMMAS: Final = 12 * MAX_TENSORS
# The first bytes of PyTorch's files: a ZIP archive, or a pickle of protocol 2 to 5. They count only if the header's
# length, which the same bytes spell, exceeds the file: otherwise it may be safetensors all the same.
_PICKLED: Final = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_RESAVE: Final = "save the adapter again with PEFT's save_pretrained, and copy the whole file"


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor; its bytes are at `first` up to `last`, counted from the header's end."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Header:
    """The parsed header. `start` is the offset of the tensors' bytes."""

    tensors: Mapping[str, Tensor]
    start: int


def read_header(file: BinaryIO, size: int) -> tuple[Header | None, tuple[Problem, ...]]:
    """Return the header of a file of `size` bytes, or None and the problems with it.

    Lengths are checked against the file's size and the bounds before anything is read or allocated.
    """
    file.seek(0)
    head = file.read(8)
    instead = stand_in(head + file.read(HEAD_BYTES - len(head)))
    if instead is not None:
        return None, (Problem(code=instead.code, message=instead.message, value=size, remedy=instead.remedy),)
    file.seek(len(head))
    length = int.from_bytes(head, "little")
    if len(head) < 8 or length < 2:
        return None, (_flaw("truncated", f"the file has {size} bytes and no header", size, "a header"),)
    if length > MAX_HEADER_BYTES and length + 8 <= size:
        return None, (_flaw("header_too_large", "the header is too large to be parsed", length, MAX_HEADER_BYTES),)
    if length + 8 > size:
        if head.startswith(_PICKLED):
            return None, (_pickle_problem(head),)
        message = f"the header says that it has {length:,} bytes, the file {size:,}: it is cut short, or no safetensors"
        return None, (_flaw("truncated", message, length, size - 8),)
    data = file.read(length)
    if len(data) < length:
        return None, (_flaw("truncated", "the file became shorter while it was read", len(data), length),)
    if data.count(b"[") + data.count(b"{") > _MAX_BRACKETS or data.count(b",") > _MAX_COMMAS:
        return None, (_flaw("too_many_tensors", "the header lists too many tensors", None, MAX_TENSORS),)
    return _parse(data)


def _pickle_problem(head: bytes) -> Problem:
    return Problem(
        code="pickle",
        message="the file is a pickle with another name; reading it can run any code",
        value=head[:4].hex(),
        limit="safetensors",
        remedy="save the adapter with save_pretrained(..., safe_serialization=True)",
    )


def _parse(data: bytes) -> tuple[Header | None, tuple[Problem, ...]]:
    if data[:1] != b"{":
        return None, (_flaw("header_unreadable", "the header is no JSON object", render(data[:16]), "{"),)
    try:
        table = strict_json.parse(data)
    except strict_json.DuplicateKey as error:
        return None, (_flaw("tensor_duplicate", f"the header is ambiguous: {error}", None, "each name once"),)
    except strict_json.InvalidJson as error:
        return None, (_flaw("header_unreadable", f"the header cannot be read: {error}", None, "JSON"),)
    metadata = table.pop("__metadata__", None)
    problems: list[Problem] = []
    is_text = isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    if metadata is not None and not is_text:
        problems.append(_flaw("header_unreadable", "`__metadata__` is no map of texts", render(metadata), "texts"))
    if len(table) > MAX_TENSORS:
        problems.append(_flaw("too_many_tensors", "the header lists too many tensors", len(table), MAX_TENSORS))
    tensors: dict[str, Tensor] = {}
    for name, entry in table.items():
        tensor = _tensor(name, entry)
        if tensor is None:
            message = "the entry is not {dtype, shape, data_offsets} with whole numbers"
            problems.append(_flaw("header_unreadable", message, render(entry), "one entry a tensor", name))
        else:
            tensors[name] = tensor
    return (None if problems else Header(tensors, 8 + len(data))), tuple(problems)


def _tensor(name: str, entry: Any) -> Tensor | None:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        return None
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        return None
    if not all(type(number) is int and number >= 0 for number in (*shape, *offsets)):
        return None
    return Tensor(name, dtype, tuple(shape), offsets[0], offsets[1])


def layout_problems(header: Header, size: int) -> Iterator[Problem]:
    """Yield the problems with the tensors' positions in a file of `size` bytes.

    The tensors must lie one after another and fill the file: the digest would not cover a byte outside of them.
    """
    room = size - header.start
    if not header.tensors:
        yield _flaw("no_tensors", "the file holds no tensors", 0, 1)
    for tensor in header.tensors.values():
        yield from _own_problems(tensor, room)
    ordered = sorted(header.tensors.values(), key=lambda tensor: (tensor.first, tensor.last))
    if ordered and ordered[0].first != 0:
        yield _gap(ordered[0], 0)
    for before, after in pairwise(ordered):
        if after.first < before.last:
            message = f"it begins within `{render(before.name)}`"
            yield _flaw("tensors_overlap", message, after.first, before.last, after.name)
        elif after.first > before.last:
            yield _gap(after, before.last)
    end = max((tensor.last for tensor in ordered), default=0)
    if ordered and end < room:
        yield _flaw("bytes_between", f"{room - end:,} bytes follow the last tensor", room, end)


def _gap(tensor: Tensor, expected: int) -> Problem:
    message = f"{tensor.first - expected:,} bytes before it belong to no tensor"
    return _flaw("bytes_between", message, tensor.first, expected, tensor.name)


def _own_problems(tensor: Tensor, room: int) -> Iterator[Problem]:
    if tensor.last < tensor.first or tensor.last > room:
        message = "its bytes end before they begin, or past the file's end: the file is cut short or damaged"
        yield _flaw("out_of_range", message, f"{tensor.first}..{tensor.last}", room, tensor.name)
    if tensor.dtype not in BITS:
        yield _flaw("dtype_unknown", "its dtype is unknown", render(tensor.dtype), "F32, F16, BF16", tensor.name)
    elif len(tensor.shape) > MAX_DIMENSIONS:
        limit = f"{MAX_DIMENSIONS} dimensions"
        yield _flaw("shape_bytes_mismatch", "it has too many dimensions", len(tensor.shape), limit, tensor.name)
    elif 0 in tensor.shape:
        yield _flaw("tensor_empty", "it has no values", render(tensor.shape), "at least one value", tensor.name)
    elif math.prod(tensor.shape) * BITS[tensor.dtype] != (tensor.last - tensor.first) * 8:
        needed = math.prod(tensor.shape) * BITS[tensor.dtype] // 8
        message = f"{tensor.dtype} {render(list(tensor.shape))} needs {needed:,} bytes"
        yield _flaw("shape_bytes_mismatch", message, tensor.last - tensor.first, needed, tensor.name)


def chunks(file: BinaryIO, header: Header, tensor: Tensor, buffer: bytearray) -> Iterator[memoryview]:
    """Yield the tensor's bytes piece by piece, each time in the same `buffer`.

    The file is read and not mapped: if it is truncated meanwhile, this raises, whereas a mapping would kill the
    process.

    Raises:
        EOFError: The file became shorter while it was read.
    """
    file.seek(header.start + tensor.first)
    left = tensor.last - tensor.first
    with memoryview(buffer) as view:
        while left:
            piece = view[: min(left, len(buffer))]
            if file.readinto(piece) != len(piece):  # type: ignore[attr-defined]  # BufferedReader has it
                raise EOFError(f"`{render(tensor.name)}` ends early")
            left -= len(piece)
            yield piece


def _flaw(
    code: str, message: str, value: str | int | None, limit: str | int | None, tensor: str | None = None
) -> Problem:
    where = f"tensor `{render(tensor)}`" if tensor is not None else ""
    return Problem(code=code, message=message, value=value, limit=limit, remedy=_RESAVE, where=where)

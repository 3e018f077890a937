"""Apply LoRA adapters to a batch on the CPU, one adapter at a time.

A batch has one row per token (or per sampled token, for logits). Each row belongs to an adapter *slot*,
or to the base: slot -1. Stock vLLM gathers one weight matrix per row, `weights[slots]`, where -1 means the
last slot; here each adapter's rows are multiplied by its one matrix, and rows of the base are never touched.

Shapes: stacked weights are (n_slots, 1, n_out, n_in) with unused ranks zero.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from vllm.logger import init_logger
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

logger = init_logger(__name__)

BASE_SLOT = -1


class SlotRows(NamedTuple):
    """The rows of a batch that belong to one adapter."""

    slot: int
    rows: slice | torch.Tensor  # a slice where they are neighbours: indexing then copies nothing


def rows_by_slot(slots: Sequence[int]) -> tuple[SlotRows, ...]:
    """Group row numbers by slot, leaving out the rows of the base."""
    rows: dict[int, list[int]] = {}
    for row, slot in enumerate(slots):
        if slot != BASE_SLOT:
            rows.setdefault(slot, []).append(row)
    return tuple(SlotRows(slot, _as_index(numbers)) for slot, numbers in rows.items())


def _as_index(numbers: list[int]) -> slice | torch.Tensor:
    first, last = numbers[0], numbers[-1]
    if last - first + 1 == len(numbers):
        return slice(first, last + 1)
    return torch.tensor(numbers)


class AdapterWisePunica(PunicaWrapperCPU):  # type: ignore[misc]  # vLLM is not typed
    """vLLM's CPU wrapper with its three gathers replaced."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._groups: dict[int, tuple[SlotRows, ...]] = {}

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        super().update_metadata(*args, **kwargs)
        # Every layer of a step asks for the same grouping; steps differ.
        self._groups = {}

    def _token_groups(self, count: int) -> tuple[SlotRows, ...]:
        if count not in self._groups:
            self._groups[count] = rows_by_slot(self.token_lora_indices[:count].tolist())
        return self._groups[count]

    def _apply_shrink(self, y: torch.Tensor, x: torch.Tensor, w_t_all: torch.Tensor, scale: float) -> None:
        """Set `y[rows] = scale * x[rows] @ A.T` for each adapter; `y` starts as zeros."""
        y = y.view(-1, y.shape[-1])
        for slot, rows in self._token_groups(x.shape[0]):
            weight = _matrix(w_t_all, slot, y.dtype)
            y[rows, : weight.shape[0]] = scale * (x[rows].to(y.dtype) @ weight.T)

    def _apply_expand(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        w_t_all: torch.Tensor,
        y_offset: int,
        y_slice_size: int,
        add_inputs: bool = True,
    ) -> None:
        """Add `x[rows] @ B.T` to the columns `y_offset : y_offset + y_slice_size` for each adapter."""
        columns = y[:, y_offset : y_offset + y_slice_size]
        for slot, rows in self._token_groups(x.shape[0]):
            delta = x[rows].to(y.dtype) @ _matrix(w_t_all, slot, y.dtype).T
            if add_inputs:
                columns[rows] += delta[:, :y_slice_size]
            else:
                columns[rows] = delta[:, :y_slice_size]

    def add_lora_embedding(
        self, y: torch.Tensor, x: torch.Tensor, lora_b_stacked: torch.Tensor, add_inputs: bool = True, **_: Any
    ) -> None:
        """Add the embedding's delta; `x` is its A already looked up, (n_rows, rank)."""
        self._apply_expand(y, x, lora_b_stacked, 0, y.shape[-1], add_inputs)

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **_: Any,
    ) -> None:
        """Add the delta of adapters that target `lm_head`; most do not, and then there is nothing to add.

        `x` has one row per sampled token, and vLLM knows their slots. Asked for `prompt_logprobs`, vLLM
        comes here once more with the prompt rows of one request and does not say whose they are (#16668).
        Where all requests of the batch have the same slot, it is that one. Otherwise the delta is left out
        of those scores, as vLLM does on GPUs (#51594), rather than have the engine die.
        """
        if not lora_a_stacked.any():
            return
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        slots = self.sampler_indices.tolist()
        if len(slots) != x.shape[0]:
            if len(set(slots)) != 1:
                logger.warning_once("prompt_logprobs in a mixed batch leave out adapters' lm_head")
                return
            slots = slots[:1] * x.shape[0]
        for slot, rows in rows_by_slot(slots):
            inner = scale * (x[rows].float() @ _matrix(lora_a_stacked, slot, torch.float32).T)
            delta = inner.to(y.dtype) @ _matrix(lora_b_stacked, slot, y.dtype).T
            width = min(delta.shape[-1], y.shape[-1])  # vLLM pads the two vocabularies differently
            y[rows, :width] += delta[:, :width]


def _matrix(stacked: torch.Tensor, slot: int, dtype: torch.dtype) -> torch.Tensor:
    return stacked[slot].view(-1, stacked.shape[-1]).to(dtype)

"""Bad adapters, one by one, each refused with its own reason; and the good ones that are not."""

import json
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapters.verify import BaseModel, EngineLimits, FileLimits, InvalidBase, Refused, Report, verify
from tests.support.adapter_folders import (
    BASE_LAYER,
    Tensors,
    fitting_tensors,
    safetensors,
    tokenizer,
    write_adapter,
    write_base,
)

LIMITS = EngineLimits(max_lora_rank=8)
FIRST = "base_model.model.model.layers.0.self_attn.q_proj"
TENSORS = "adapter_model.safetensors"


class Case:
    """A good adapter and its base, to be spoilt."""

    def __init__(self, folder: Path) -> None:
        self.base = write_base(folder / "base")
        self.folder = write_adapter(folder / "adapter", tensors=fitting_tensors())

    def config(self, **changes: Any) -> None:
        path = self.folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def tensors(self, changes: dict[str, Any] | None = None, *, without: str = "", of: Tensors | None = None) -> None:
        every = {**(of or fitting_tensors()), **(changes or {})}
        kept = {name: value for name, value in every.items() if name != without}
        (self.folder / TENSORS).write_bytes(safetensors(kept))

    def header(self, change: Callable[[dict[str, Any]], Any]) -> None:
        """Write the good tensors under a changed header."""
        content = (self.folder / TENSORS).read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:end])
        changed = change(header)
        packed = changed if isinstance(changed, bytes) else json.dumps(header).encode()
        (self.folder / TENSORS).write_bytes(len(packed).to_bytes(8, "little") + packed + content[end:])

    def renamed(self, old: str, new: str) -> None:
        self.tensors(of={name.replace(old, new): value for name, value in fitting_tensors().items()})

    def report(self, limits: EngineLimits = LIMITS) -> Report:
        return verify(self.folder, base=BaseModel.read(self.base), limits=limits)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def floats(*values: float, rows: int = 4) -> tuple[str, list[int], bytes]:
    """Return a matrix of 32 numbers that begins with `values`."""
    filled = [*values, *([0.5] * (32 - len(values)))]
    return "F32", [rows, 32 // rows], struct.pack("<32f", *filled)


def codes(report: Report) -> set[str]:
    return {problem.code for problem in report.errors}


def test_a_good_adapter_is_accepted_without_a_warning(case: Case) -> None:
    report = case.report()
    assert (report.problems, report.is_accepted) == ((), True)
    assert report.check() is report.manifest


# Bad adapters: what is done to a good one, and the reason that it must be refused with.


def cut(case: Case) -> None:
    path = case.folder / TENSORS
    path.write_bytes(path.read_bytes()[:-100])


def grown(case: Case) -> None:
    path = case.folder / TENSORS
    path.write_bytes(path.read_bytes() + b"hidden")


def overlapping(header: dict[str, Any]) -> None:
    second = list(header.values())[1]
    second["data_offsets"] = [offset - 4 for offset in second["data_offsets"]]


def gap(header: dict[str, Any]) -> None:
    for entry in list(header.values())[1:]:
        entry["data_offsets"] = [offset + 4 for offset in entry["data_offsets"]]


def repeated_name(header: dict[str, Any]) -> bytes:
    text = json.dumps(header)
    name = next(iter(header))
    return f'{{"{name}": {json.dumps(header[name])}, {text[1:]}'.encode()


def claims_100_mb(case: Case) -> None:
    (case.folder / TENSORS).write_bytes((100_000_000).to_bytes(8, "little") + b"{}")


def large_header(case: Case) -> None:
    (case.folder / TENSORS).write_bytes((17_000_000).to_bytes(8, "little") + b"{" + b" " * 17_000_000)


def pickled_only(case: Case) -> None:
    (case.folder / TENSORS).rename(case.folder / "adapter_model.bin")


def link_out(case: Case) -> None:
    (case.folder / TENSORS).replace(case.folder.parent / "elsewhere")
    (case.folder / TENSORS).symlink_to(case.folder.parent / "elsewhere")


def rank_16(case: Case) -> None:
    case.config(r=16)
    case.tensors(of=fitting_tensors(rank=16))


def head_of_another_architecture(case: Case) -> None:
    write_base(case.base, architectures=["Qwen2ForCausalLM"])
    case.tensors(lm_head())


def base_beside(case: Case) -> None:
    (case.folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 4096}))


def other_vocabulary(case: Case) -> None:
    (case.folder / "tokenizer.json").write_text(tokenizer().replace('"t3": 3', '"t3": 5'))


def magnitude(case: Case) -> None:
    case.config(use_dora=True)
    case.tensors({f"{FIRST}.lora_magnitude_vector": ("F32", [8], bytes(32))})


BAD: dict[str, tuple[str, Callable[[Case], object]]] = {
    "pickle alone": ("pickle", pickled_only),
    "pickle beside": ("pickle", lambda case: (case.folder / "adapter_model.bin").write_bytes(b"\x80\x04")),
    "pickle under another name": ("pickle", lambda case: (case.folder / TENSORS).write_bytes(b"PK\x03\x04" * 9)),
    "no tensors file": ("tensors_missing", lambda case: (case.folder / TENSORS).unlink()),
    "no config": ("config_missing", lambda case: (case.folder / "adapter_config.json").unlink()),
    "config is no JSON": ("config_unreadable", lambda case: (case.folder / "adapter_config.json").write_text("{")),
    "config too large": (
        "config_too_large",
        lambda case: (case.folder / "adapter_config.json").write_text(" " * 4_000_001),
    ),
    "a config key twice": (
        "config_duplicate_key",
        lambda case: (case.folder / "adapter_config.json").write_text('{"r": 4, "r": 8}'),
    ),
    "no LoRA": ("not_lora", lambda case: case.config(peft_type="IA3")),
    "a field missing": (
        "field_missing",
        lambda case: (case.folder / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 8}'),
    ),
    "targets are no names": ("targets_invalid", lambda case: case.config(target_modules={"q_proj": 1})),
    "file cut short": ("out_of_range", cut),
    "file of four bytes": ("truncated", lambda case: (case.folder / TENSORS).write_bytes(b"1234")),
    "header of 100 MB claimed": ("truncated", claims_100_mb),
    "header too large": ("header_too_large", large_header),
    "header is no JSON": ("header_unreadable", lambda case: case.header(lambda header: b"{" * 40)),
    "header nested too deeply": ("header_unreadable", lambda case: case.header(lambda _: b'{"a":' + b"[" * 200_000)),
    "header with huge number": (
        "header_unreadable",
        lambda case: case.header(lambda header: b'{"a": {"shape": [' + b"9" * 9_000 + b"]}}"),
    ),
    "too many tensors": (
        "too_many_tensors",
        lambda case: case.header(lambda _: b"{" + b",".join([b'"a":[[{'] * 200_000)),
    ),
    "no tensors": ("no_tensors", lambda case: (case.folder / TENSORS).write_bytes(safetensors({}))),
    "a name twice": ("tensor_duplicate", lambda case: case.header(repeated_name)),
    "one half under two names": (
        "tensor_duplicate",
        lambda case: case.tensors({"model.layers.0.self_attn.q_proj.lora_A.weight": floats()}),
    ),
    "tensors overlap": ("tensors_overlap", lambda case: case.header(overlapping)),
    "a gap": ("bytes_between", lambda case: case.header(gap)),
    "bytes after the last": ("bytes_between", grown),
    "unknown dtype": (
        "dtype_unknown",
        lambda case: case.header(lambda header: next(iter(header.values())).update(dtype="F12")),
    ),
    "shape and bytes differ": (
        "shape_bytes_mismatch",
        lambda case: case.header(lambda header: next(iter(header.values())).update(shape=[4, 9])),
    ),
    "an empty tensor": ("tensor_empty", lambda case: case.tensors({f"{FIRST}.lora_A.weight": ("F32", [0, 8], b"")})),
    "not a number": ("not_finite", lambda case: case.tensors({f"{FIRST}.lora_A.weight": floats(float("nan"))})),
    "infinite": ("not_finite", lambda case: case.tensors({f"{FIRST}.lora_A.weight": floats(float("-inf"))})),
    "quantised": ("dtype_not_float", lambda case: case.tensors({f"{FIRST}.lora_A.weight": ("I8", [4, 8], bytes(32))})),
    "rank 0": ("rank_invalid", lambda case: case.config(r=0)),
    "rank is no number": ("rank_invalid", lambda case: case.config(r="4")),
    "rank over the limit": (
        "rank_over_limit",
        rank_16,
    ),
    "rank of a pattern over the limit": ("rank_over_limit", lambda case: case.config(rank_pattern={"k_proj": 9})),
    "rank of a tensor over the limit": ("rank_over_limit", lambda case: case.tensors(of=fitting_tensors(rank=9))),
    "rank not the config's": ("rank_differs", lambda case: case.config(r=8)),
    "rank not the pattern's": ("rank_differs", lambda case: case.config(rank_pattern={"self_attn.q_proj": 2})),
    "alpha 0": ("alpha_invalid", lambda case: case.config(lora_alpha=0)),
    "alpha of a pattern": ("alpha_invalid", lambda case: case.config(alpha_pattern={"q_proj": -1})),
    "a pattern that hangs": ("pattern_invalid", lambda case: case.config(rank_pattern={"(a+)+b": 4})),
    "DoRA": ("dora", magnitude),
    "a tensor of DoRA": ("tensor_not_lora", magnitude),
    "bias": ("bias", lambda case: case.config(bias="lora_only")),
    "bias in LoRA": ("lora_bias", lambda case: case.config(lora_bias=True)),
    "modules_to_save": ("modules_to_save", lambda case: case.config(modules_to_save=["lm_head"])),
    "activated LoRA": ("alora", lambda case: case.config(alora_invocation_tokens=[1, 2])),
    "replicated layers": ("layer_replication", lambda case: case.config(layer_replication=[[0, 2], [1, 2]])),
    "block-diagonal": ("bdlora", lambda case: case.config(use_bdlora={"nblocks": 2})),
    "QALoRA": ("qalora", lambda case: case.config(use_qalora=True)),
    "trained tokens": ("trainable_tokens", lambda case: case.config(trainable_token_indices=[1])),
    "KaSA": ("kasa", lambda case: case.config(kasa_config={"beta": 1})),
    "Megatron": ("megatron", lambda case: case.config(megatron_config={"a": 1})),
    "PiSSA": ("init_changes_base", lambda case: case.config(init_lora_weights="pissa_niter_4")),
    "B missing": ("half_missing", lambda case: case.tensors(without=f"{FIRST}.lora_B.weight")),
    "A missing": ("half_missing", lambda case: case.tensors(without=f"{FIRST}.lora_A.weight")),
    "halves do not fit": ("halves_do_not_fit", lambda case: case.tensors({f"{FIRST}.lora_B.weight": floats(rows=16)})),
    "a convolution": (
        "not_a_matrix",
        lambda case: case.tensors({f"{FIRST}.lora_A.weight": ("F32", [4, 8, 1, 1], bytes(128))}),
    ),
    "a smaller base's width": ("shape_not_base", lambda case: write_base(case.base, layer=wider())),
    "wrong prefix": ("module_not_in_base", lambda case: case.renamed("model.model.layers", "model.layers")),
    "a layer too many": ("module_not_in_base", lambda case: case.renamed("layers.1", "layers.7")),
    "a module of another model": ("module_not_in_base", lambda case: case.renamed("self_attn.q_proj", "attn.c_attn")),
    "split where the base is packed": ("module_not_in_base", lambda case: write_base(case.base, layer=packed())),
    "a norm": ("not_linear", lambda case: case.renamed("self_attn.q_proj", "input_layernorm")),
    "lm_head of an architecture without": (
        "lm_head_not_served",
        head_of_another_architecture,
    ),
    "embeddings in a linear form": (
        "embedding_form",
        lambda case: case.renamed("layers.0.self_attn.q_proj", "embed_tokens"),
    ),
    "resized embeddings": (
        "embeddings_resized",
        lambda case: case.tensors({"base_model.model.lm_head.base_layer.weight": ("F32", [17, 8], bytes(544))}),
    ),
    "a name too long": ("name_too_long", lambda case: case.renamed("q_proj", "q" * 400)),
    "another base's config beside": ("base_config", base_beside),
    "another vocabulary beside": ("tokenizer_differs", other_vocabulary),
    "tokens beyond the base's": (
        "tokens_beyond_base",
        lambda case: (case.folder / "tokenizer.json").write_text(tokenizer(new=16)),
    ),
    "a link out of the folder": ("link_outside", link_out),
    "a link to nowhere": ("link_broken", lambda case: (case.folder / "README").symlink_to("nowhere")),
    "a pipe": ("special_file", lambda case: os.mkfifo(case.folder / "pipe")),
}


def wider() -> dict[str, list[int]]:
    return {**BASE_LAYER, "self_attn.q_proj": [16, 16]}


def packed() -> dict[str, list[int]]:
    return {"self_attn.qkv_proj": [16, 8], "self_attn.o_proj": [8, 8]}


def lm_head() -> Tensors:
    return {
        "base_model.model.lm_head.lora_A.weight": floats(),
        "base_model.model.lm_head.lora_B.weight": ("F32", [16, 4], bytes(256)),
    }


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_adapter_is_refused_with_its_own_reason(case: Case, bad: str) -> None:
    code, spoil = BAD[bad]
    spoil(case)
    report = case.report()
    assert code in codes(report)
    assert not report.is_accepted
    problem = next(problem for problem in report.errors if problem.code == code)
    assert problem.message
    assert problem.remedy
    assert len(str(Refused(report))) < 20_000, "however large what is wrong is"


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (FileLimits(largest_file_bytes=1_000), "file_too_large"),
        (FileLimits(largest_total_bytes=1_000), "folder_too_large"),
        (FileLimits(root=Path("/nowhere")), "outside_root"),
    ],
)
def test_a_folder_past_a_limit_is_refused(case: Case, limits: FileLimits, code: str) -> None:
    assert codes(case.report(EngineLimits(max_lora_rank=8, files=limits))) == {code}


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert codes(verify(tmp_path / "nowhere", base=None, limits=LIMITS)) == {"folder_missing"}


def test_four_problems_are_reported_together(case: Case) -> None:
    case.config(use_dora=True, bias="all", lora_alpha=0)
    case.tensors({f"{FIRST}.lora_A.weight": floats(float("nan"))})
    report = case.report()
    assert [problem.code for problem in report.errors] == ["alpha_invalid", "dora", "bias", "not_finite"]
    with pytest.raises(Refused) as refused:
        report.check()
    lines = str(refused.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["alpha_invalid", "dora", "bias", "not_finite"]
    assert refused.value.report is report


def test_what_cannot_be_read_hides_nothing_else(case: Case) -> None:
    case.config(r=0)
    (case.folder / TENSORS).write_bytes(b"?" * 100)
    (case.folder / "adapter_model.bin").write_bytes(b"")
    assert codes(case.report()) == {"rank_invalid", "truncated", "pickle"}


def test_a_thousand_problems_of_a_kind_are_one_line_with_a_count(case: Case) -> None:
    case.renamed("model.model.layers", "model.layers")
    every = {f"model.x.{number}.q_proj.lora_A.weight": floats() for number in range(500)}
    case.tensors(every)
    problems = [problem for problem in case.report().errors if problem.code == "half_missing"]
    assert len(problems) == 8
    assert "and 492 more like this" in problems[-1].message


# What is served, with or without a remark


@pytest.mark.parametrize(
    "change",
    [
        {"use_rslora": True},
        {"alpha_pattern": {"layers.0.self_attn.q_proj": 2.5}},
        {"lora_dropout": 0.1},
        {"rank_pattern": {"k_proj": 2}},
        {"init_lora_weights": "eva"},
        {"target_modules": "all-linear"},
        {"velora_config": {"a": 1}},
        {"exclude_modules": ["lm_head"]},
        {"layers_to_transform": [0, 1]},
    ],
    ids=str,
)
def test_what_vllm_serves_as_trained_is_accepted_without_a_warning(case: Case, change: dict[str, Any]) -> None:
    case.config(**change)
    assert case.report().problems == ()


def test_an_adapter_of_some_layers_is_accepted(case: Case) -> None:
    case.tensors(of={name: value for name, value in fitting_tensors().items() if "layers.1" in name})
    assert case.report().problems == ()


def test_names_without_pefts_prefix_are_accepted_as_vllm_reads_them(case: Case) -> None:
    case.renamed("base_model.model.", "")
    assert case.report().problems == ()


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F64", "F8_E4M3", "F8_E5M2"])
def test_every_float_is_served_and_its_nan_found(case: Case, dtype: str) -> None:
    width = {"F16": 2, "BF16": 2, "F64": 8}.get(dtype, 1)
    one, nan = b"\x11" * 32 * width, b"\x11" * 31 * width + b"\xff" * width
    case.tensors({f"{FIRST}.lora_A.weight": (dtype, [4, 8], one)})
    assert case.report().problems == ()
    case.tensors({f"{FIRST}.lora_A.weight": (dtype, [4, 8], nan)})
    assert codes(case.report()) == {"not_finite"}


def warned(case: Case) -> set[str]:
    report = case.report()
    assert report.is_accepted, report.errors
    return {problem.code for problem in report.warnings}


def test_an_adapter_that_changes_nothing_is_told(case: Case) -> None:
    zeros = {name: (dtype, shape, bytes(len(content))) for name, (dtype, shape, content) in fitting_tensors().items()}
    case.tensors(of={**fitting_tensors(), **{name: value for name, value in zeros.items() if "lora_B" in name}})
    assert warned(case) == {"no_effect"}


def test_values_beyond_half_precision_are_told(case: Case) -> None:
    case.tensors({f"{FIRST}.lora_A.weight": floats(65_519.0)})
    assert warned(case) == set()
    case.tensors({f"{FIRST}.lora_A.weight": floats(-65_520.0)})
    assert warned(case) == {"overflows_float16"}


def test_a_changed_lm_head_is_served_but_not_scorable(case: Case) -> None:
    case.config(target_modules=["q_proj", "v_proj", "lm_head"])
    case.tensors(lm_head())
    report = case.report()
    assert {problem.code for problem in report.warnings} == {"lm_head_not_scorable"}
    assert report.check().is_scorable is False


def test_changed_embeddings_are_served(case: Case) -> None:
    case.config(target_modules=["q_proj", "v_proj", "embed_tokens"])
    prefix = "base_model.model.model.embed_tokens.lora_embedding_"
    halves = {f"{prefix}A": ("F32", [4, 16], bytes(256)), f"{prefix}B": ("F32", [8, 4], bytes(128))}
    case.tensors(halves)
    report = case.report()
    assert report.problems == ()
    assert report.check().targets_embeddings
    case.tensors({**halves, f"{prefix}A": ("F32", [4, 17], bytes(272))})
    assert codes(case.report()) == {"shape_not_base"}


def test_other_pickles_beside_are_told_and_never_read(case: Case) -> None:
    (case.folder / "training_args.bin").write_bytes(b"\x80\x04")
    assert warned(case) == {"pickle_beside"}


def test_targets_and_tensors_that_are_not_the_same_are_told(case: Case) -> None:
    case.config(target_modules=["q_proj", "k_proj"])
    assert warned(case) == {"not_targeted", "target_without_tensors"}


@pytest.mark.parametrize(
    ("named", "expected"),
    [("/else/where/base", set()), ("org/Base", set()), ("org/other", {"base_name"}), (None, {"base_unnamed"})],
)
def test_another_base_by_name_is_told(case: Case, named: str | None, expected: set[str]) -> None:
    case.config(base_model_name_or_path=named)
    assert warned(case) == expected


def test_another_chat_template_is_told_with_both_hashes(case: Case) -> None:
    (case.folder / "chat_template.jinja").write_text("{{ other }}")
    assert warned(case) == {"chat_template"}
    (problem,) = case.report().warnings
    assert len(str(problem.value)) == len(str(problem.limit)) == 16
    assert problem.value != problem.limit


def test_the_bases_own_files_beside_are_fine(case: Case) -> None:
    for name in ("tokenizer.json", "chat_template.jinja", "config.json"):
        (case.folder / name).write_bytes((case.base / name).read_bytes())
    (case.folder / "tokenizer.json").write_text(json.dumps(json.loads(tokenizer()), indent=2))
    assert warned(case) == set()


def test_added_tokens_that_the_base_has_room_for_are_told(case: Case) -> None:
    write_base(case.base, vocab_size=32)
    (case.folder / "tokenizer.json").write_text(tokenizer(new=16))
    assert warned(case) == {"tokens_added"}


def test_without_a_base_it_is_said_what_was_not_checked(case: Case) -> None:
    case.renamed("q_proj", "x_proj")
    case.config(target_modules=["x_proj", "v_proj"])
    report = verify(case.folder, base=None, limits=LIMITS)
    assert [problem.code for problem in report.problems] == ["base_not_checked"]


def test_a_base_without_safetensors_leaves_names_unchecked(case: Case) -> None:
    (case.base / "model.safetensors").unlink()
    assert warned(case) == {"base_not_checked"}


def test_a_quantised_base_has_names_and_no_shapes(case: Case) -> None:
    names = [f"model.layers.{layer}.self_attn.{name}.qweight" for layer in range(2) for name in ("q_proj", "v_proj")]
    quantised = {name: ("I32", [1, 8], bytes(32)) for name in names}
    (case.base / "model.safetensors").write_bytes(safetensors(quantised))
    assert warned(case) == {"shape_not_checked"}
    case.renamed("layers.1", "layers.7")
    assert codes(case.report()) == {"module_not_in_base"}


@pytest.mark.parametrize("content", [b"", b"12345678", b"\xff" * 40])
def test_a_damaged_base_is_said_to_be_one(case: Case, content: bytes) -> None:
    (case.base / "model.safetensors").write_bytes(content)
    with pytest.raises(InvalidBase, match="damaged"):
        case.report()


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x0480, 0x0580])
def test_a_header_whose_length_looks_like_a_pickle_is_no_pickle(case: Case, length: int) -> None:
    case.header(lambda header: json.dumps(header).encode().ljust(length))
    assert case.report().is_accepted


def test_a_base_of_several_files_is_read_by_its_index(case: Case) -> None:
    (case.base / "model.safetensors").rename(case.base / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"model.embed_tokens.weight": "model-00001-of-00001.safetensors"}}
    (case.base / "model.safetensors.index.json").write_text(json.dumps(index))
    assert case.report().problems == ()
    (case.base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../../etc/passwd"}}))
    with pytest.raises(InvalidBase, match="beside"):
        BaseModel.read(case.base)


def test_a_folder_without_a_config_is_no_base(tmp_path: Path) -> None:
    with pytest.raises(InvalidBase, match=r"config\.json"):
        BaseModel.read(tmp_path)


def test_a_model_of_several_parts_may_name_its_modules_in_another_way(case: Case) -> None:
    write_base(case.base, text_config={"vocab_size": 16})
    case.renamed("model.model.layers", "model.model.language_model.layers")
    assert warned(case) == {"module_renamed"}


def test_every_code_is_documented() -> None:
    docs = Path(__file__).parents[2] / "docs"
    text = "".join(path.read_text() for path in docs.glob("adapters*.md"))
    package = Path(__file__).parents[2] / "adapters"
    sources = [*(package / "verify").glob("*.py"), package / "safetensors_file.py", package / "config_file.py"]
    found: set[str] = set()
    for path in sources:
        calls = (
            r"(?:code=|_(?:problem|flaw|error|warning|unreadable|file_problem|token_problem|config_problem)\(\s*|: \()"
        )
        found |= set(re.findall(rf'{calls}"([a-z][a-z_0-9]+)"', path.read_text()))
    assert {"dora", "pickle", "lm_head_not_scorable", "tokens_added", "config_too_large", "bytes_between"} <= found
    known = {code for code in found if f"`{code}`" in text}
    assert found - known <= {"u1"}, "a dtype's form is no code"


def test_names_that_would_write_to_a_terminal_are_shown_harmless(case: Case) -> None:
    case.renamed("q_proj", "\x1b[2Jq")
    (case.folder / "\x1b[2J.bin").write_bytes(b"")
    (case.folder / os.fsdecode(b"\xff.bin")).write_bytes(b"")
    report = case.report()
    text = json.dumps([str(problem) for problem in report.problems]) + str(Refused(report))
    assert "\x1b" not in text
    assert text.encode()


def test_expressions_that_take_too_long_for_so_many_modules_are_refused_at_once(case: Case) -> None:
    many = {f"base_model.model.{'a' * 250}.{number}.lora_A.weight": floats() for number in range(300)}
    case.tensors(many)
    case.config(rank_pattern={f".*a.*b{number}": 4 for number in range(300)})
    assert "pattern_invalid" in codes(case.report())
    case.tensors()
    case.config(rank_pattern={r".*layers\.0\..*q_proj": 4, r"layers\.\d+\.self_attn\.v_proj": 4})
    assert case.report().problems == ()

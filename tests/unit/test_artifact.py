"""The content address: what is the same version and what is another; folders that are read and copied."""

import json
import os
import random
import struct
import threading
from pathlib import Path
from typing import Any

import pytest

from adapters.artifact import InvalidArtifact, read_manifest, take_copy
from adapters.manifest import Manifest
from tests.support.adapter_folders import Tensors, fitting_tensors, safetensors, write_adapter

A_OF_FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def digest(folder: Path) -> str:
    return read_manifest(folder).digest


def written(folder: Path, tensors: Tensors | None = None, **config: Any) -> str:
    return digest(write_adapter(folder, tensors=tensors or fitting_tensors(), **config))


def with_config(folder: Path, text: str) -> str:
    write_adapter(folder, tensors=fitting_tensors())
    (folder / "adapter_config.json").write_text(text)
    return digest(folder)


# What is the same


def test_the_order_of_tensors_is_not_content(tmp_path: Path) -> None:
    tensors = fitting_tensors()
    shuffled = list(tensors.items())
    random.Random(1).shuffle(shuffled)
    assert list(tensors.items()) != shuffled
    assert written(tmp_path / "a", tensors) == written(tmp_path / "b", dict(shuffled))


def test_metadata_is_not_content(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", tensors=fitting_tensors())
    before = digest(folder)
    for metadata in ({"format": "pt"}, {"dtype": "float32", "saved": "yesterday"}):
        (folder / "adapter_model.safetensors").write_bytes(safetensors(fitting_tensors(), metadata))
        assert digest(folder) == before


def test_formatting_is_not_content(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", tensors=fitting_tensors())
    config = json.loads((folder / "adapter_config.json").read_text())
    before = digest(folder)
    backwards = dict(reversed(config.items())) | {"target_modules": config["target_modules"][::-1]}
    for number, text in enumerate((json.dumps(config, indent=7), json.dumps(backwards, separators=(",", ":")))):
        assert with_config(tmp_path / str(number), text) == before


@pytest.mark.parametrize(
    "change",
    [
        {"lora_alpha": 8.0},
        {"r": 4.0},
        {"inference_mode": False},
        {"peft_version": "0.99"},
        {"revision": "main"},
        {"auto_mapping": {"x": 1}},
        {"init_lora_weights": True},
        {"init_lora_weights": "gaussian"},
        {"new": None},
        {"new": False},
        {"new": {}},
        {"new": []},
        {"new": ""},
        {"megatron_core": "megatron.core"},
        {"qalora_group_size": 16},
        {"target_modules": ["v_proj", "q_proj"]},
    ],
    ids=str,
)
def test_how_it_was_saved_is_not_content(tmp_path: Path, change: dict[str, Any]) -> None:
    assert written(tmp_path / "a") == written(tmp_path / "b", **change)


# What is another


@pytest.mark.parametrize(
    "change",
    [
        {"lora_alpha": 16},
        {"lora_alpha": 8.5},
        {"r": 5},
        {"use_rslora": True},
        {"alpha_pattern": {"q_proj": 2}},
        {"target_modules": ["q_proj"]},
        {"base_model_name_or_path": "other"},
        {"init_lora_weights": "pissa"},
        {"layers_to_transform": [1, 2]},
        {"qalora_group_size": 8},
    ],
    ids=str,
)
def test_what_it_computes_is_content(tmp_path: Path, change: dict[str, Any]) -> None:
    assert written(tmp_path / "a") != written(tmp_path / "b", **change)


def test_lists_of_numbers_have_an_order(tmp_path: Path) -> None:
    orders = [written(tmp_path / str(order), layer_replication=order) for order in ([[0, 2]], [[2, 0]])]
    assert orders[0] != orders[1]


def test_one_flipped_bit_of_a_tensor_is_another_version(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", tensors=fitting_tensors())
    path = folder / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    seen = {digest(folder)}
    for bit in random.Random(7).sample(range(8 * start, 8 * len(content)), 40):
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        seen.add(digest(folder))
        content[bit // 8] ^= 1 << bit % 8
    assert len(seen) == 41


def test_one_flipped_bit_of_a_name_is_another_version(tmp_path: Path) -> None:
    tensors = fitting_tensors()
    other = {name.replace("layers.0.self_attn.q", "layers.0.self_attn.p"): value for name, value in tensors.items()}
    assert written(tmp_path / "a", tensors) != written(tmp_path / "b", other)


def test_another_dtype_or_shape_of_the_same_bytes_is_another_version(tmp_path: Path) -> None:
    tensors = fitting_tensors()
    dtype, shape, content = tensors[A_OF_FIRST]
    others = [
        tensors,
        {**tensors, A_OF_FIRST: (dtype, shape[::-1], content)},
        {**tensors, A_OF_FIRST: ("I32", shape, content)},
    ]
    assert len({written(tmp_path / str(number), other) for number, other in enumerate(others)}) == 3


def test_bytes_moved_from_one_tensor_to_the_next_are_another_version(tmp_path: Path) -> None:
    content = bytes(range(8))
    one = {"x": ("U8", [3], content[:3]), "y": ("U8", [5], content[3:])}
    two = {"x": ("U8", [5], content[:5]), "y": ("U8", [3], content[5:])}
    assert written(tmp_path / "a", one) != written(tmp_path / "b", two)


# What a manifest tells


def test_a_manifest_tells_what_a_catalog_shows(tmp_path: Path) -> None:
    tensors = fitting_tensors()
    tensors["base_model.model.lm_head.lora_A.weight"] = ("F16", [2, 8], struct.pack("<16e", *range(16)))
    tensors["base_model.model.model.embed_tokens.lora_embedding_A"] = ("F16", [2, 16], bytes(64))
    folder = write_adapter(tmp_path / "a", tensors=tensors, use_rslora=True, modules_to_save=None)
    manifest = read_manifest(folder)
    assert (manifest.rank, manifest.alpha, manifest.scaling) == (4, 8.0, 4.0)
    assert (manifest.largest_rank, manifest.modules) == (4, 6)
    assert (manifest.targets_lm_head, manifest.targets_embeddings, manifest.is_scorable) == (True, True, False)
    assert (manifest.dtypes, manifest.bias, manifest.modules_to_save) == (("F16", "F32"), "none", ())
    assert read_manifest(write_adapter(tmp_path / "b")).scaling == 2.0


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("all-linear", ("q_proj", "v_proj")),
        (r"(?:.*?(?:language|text).*?(?:self_attn).*?(?:q_proj|v_proj).*?)", ("q_proj", "v_proj")),
        (["v", "q"], ("q", "v")),
        (None, ("q_proj", "v_proj")),
    ],
)
def test_targets_are_told_by_name_though_the_config_has_a_pattern(
    tmp_path: Path, given: Any, read: tuple[str, ...]
) -> None:
    folder = write_adapter(tmp_path / "a", tensors=fitting_tensors(), target_modules=given)
    assert read_manifest(folder).target_modules == read


def test_a_manifest_of_an_older_state_still_reads() -> None:
    import msgspec

    old = {"digest": "a", "base": "", "rank": 4, "alpha": 8.0, "target_modules": ["q"], "size_bytes": 1, "tensors": 1}
    manifest = msgspec.json.decode(json.dumps(old), type=Manifest)
    assert (manifest.scaling, manifest.bias, manifest.is_scorable) == (2.0, "none", True)
    assert msgspec.json.decode(msgspec.json.encode(manifest), type=Manifest) == manifest


# Copies


def test_a_copy_is_taken_once_and_named_by_its_content(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", 1)
    manifest = read_manifest(folder)
    copy = take_copy(folder, tmp_path / "registry", manifest)
    assert copy.name == manifest.digest
    inode = (copy / "adapter_model.safetensors").stat().st_ino
    assert take_copy(folder, tmp_path / "registry", manifest) == copy
    assert (copy / "adapter_model.safetensors").stat().st_ino == inode
    assert [path.name for path in (tmp_path / "registry").iterdir()] == [manifest.digest]


@pytest.mark.parametrize("spoilt", [b"", b"other"])
def test_a_copy_that_was_spoilt_is_made_again(tmp_path: Path, spoilt: bytes) -> None:
    folder, registry = write_adapter(tmp_path / "a"), tmp_path / "registry"
    manifest = read_manifest(folder)
    copy = take_copy(folder, registry, manifest)
    (copy / "adapter_model.safetensors").write_bytes(spoilt)
    assert take_copy(folder, registry, manifest) == copy
    assert read_manifest(copy) == manifest
    assert list(registry.iterdir()) == [copy]


def test_a_signature_is_kept_with_the_copy(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", 1)
    (folder / "adapter.sig").write_text("{}")
    copy = take_copy(folder, tmp_path / "registry", read_manifest(folder))
    assert (copy / "adapter.sig").read_text() == "{}"


def test_copies_taken_at_once_end_as_one(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", 1)
    manifest = read_manifest(folder)
    copies: list[Path] = []
    threads = [
        threading.Thread(target=lambda: copies.append(take_copy(folder, tmp_path / "registry", manifest)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert copies == [tmp_path / "registry" / manifest.digest] * 8
    assert len(list((tmp_path / "registry").iterdir())) == 1


def test_a_copy_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_adapter(tmp_path / "a", 1)
    manifest, registry = read_manifest(folder), tmp_path / "registry"
    synced: list[tuple[str, bool]] = []
    real = os.fsync

    def recording(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").resolve().name
        synced.append((name.partition("-")[0], (registry / manifest.digest).exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", recording)
    take_copy(folder, registry, manifest)
    assert set(synced[:3]) == {
        ("adapter_config.json", False),
        ("adapter_model.safetensors", False),
        (".incoming", False),
    }
    assert synced[3:] == [("registry", True)]


def test_a_folder_that_changes_while_it_is_copied_is_refused(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", 1)
    manifest = read_manifest(folder)
    tensors = folder / "adapter_model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\xff")
    with pytest.raises(InvalidArtifact, match="changed"):
        take_copy(folder, tmp_path / "registry", manifest)
    assert list((tmp_path / "registry").iterdir()) == []


# What cannot be read


@pytest.mark.parametrize(
    "change",
    [
        {"r": 0},
        {"r": -1},
        {"r": None},
        {"r": "8"},
        {"r": True},
        {"r": 1.5},
        {"lora_alpha": 0},
        {"peft_type": "IA3"},
        {"target_modules": {"a": 1}},
    ],
    ids=str,
)
def test_a_config_that_cannot_be_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    tensors: Tensors = {"t": ("U8", [1], b"1")}
    with pytest.raises(InvalidArtifact):
        read_manifest(write_adapter(tmp_path / "a", tensors=tensors, **change))


@pytest.mark.parametrize(
    "config", ["", "[]", "{", "[" * 100_000, "null", '{"r": 1, "r": 2}', '{"r": NaN}', '{"a": "\\ud800"}']
)
def test_a_config_that_is_no_plain_object_is_refused(tmp_path: Path, config: str) -> None:
    with pytest.raises(InvalidArtifact, match=r"adapter_config\.json"):
        with_config(tmp_path / "a", config)


def with_header(header: bytes, data: bytes = b"x") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234",
        b"\xff" * 8,
        b"\x80\x04pickle",
        with_header(b"{"),
        with_header(b"[]"),
        with_header(b'{"a":1}'),
        with_header(b'{"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}}'),
        with_header(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}}'),
        with_header(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[-1,0]}}'),
        with_header(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}}'),
        with_header(b'{"a":{"dtype":"U8","shape":5,"data_offsets":[0,1]}}'),
        with_header(b"[" * 100_000),
    ],
)
def test_a_tensors_file_that_cannot_be_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = write_adapter(tmp_path / "a", 1)
    (folder / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(InvalidArtifact):
        read_manifest(folder)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArtifact, match="is not a folder"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(InvalidArtifact, match=r"adapter_config\.json"):
        read_manifest(tmp_path)
    folder = write_adapter(tmp_path / "a", 1)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(InvalidArtifact, match="pickle"):
        read_manifest(folder)

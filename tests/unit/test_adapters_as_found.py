"""Adapters as trainers, hubs and login pages leave them: taken where only the adapter counts, else told apart."""

import hashlib
import json
import os
import shutil
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.artifact import InvalidArtifact, read_manifest, take_copy
from adapters.sources import Allowed, SourceError, SourceNotAllowed, SourceNotFound, UnsafeArchive, fetch
from adapters.sources.allowed import check_url
from adapters.verify import BaseModel, EngineLimits, FileLimits, Report, verify
from tests.support.adapter_folders import fitting_tensors, tokenizer, write_adapter, write_base

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
LOGIN = b'\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body><form action="/login"></form></body></html>'
TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
LIMITS = EngineLimits(max_lora_rank=8, files=FileLimits(largest_file_bytes=100_000, largest_total_bytes=200_000))
ANY = Allowed(any_local=True)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "out" / "checkpoint-500", tensors=fitting_tensors())


def look(folder: Path, base: Path, limits: EngineLimits = LIMITS) -> Report:
    return verify(folder, base=BaseModel.read(base), limits=limits)


def sparse(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


def cached(adapter: Path, hub: Path) -> Path:
    """Put an adapter into a Hugging Face cache; returns its snapshot."""
    snapshot = hub / "models--org--support" / "snapshots" / ("a" * 40)
    blobs = hub / "models--org--support" / "blobs"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in adapter.iterdir():
        name = hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, blobs / name)
        (snapshot / file.name).symlink_to(f"../../blobs/{name}")
    return snapshot


# What lies beside


def test_gigabytes_to_go_on_training_from_do_not_stand_in_the_way(folder: Path, base: Path, tmp_path: Path) -> None:
    sparse(folder / "global_step500" / "mp_rank_00_model_states.pt", 90 * 10**9)
    sparse(folder / "optimizer.pt", 17 * 10**9)
    sparse(folder.parent / "runs" / "events", 10**9)
    assert look(folder, base).is_accepted
    for source in (folder, folder.parent):
        assert fetch(str(source), tmp_path / "scratch", allowed=ANY) == folder


def test_thousands_of_files_beside_do_not_stand_in_the_way(folder: Path, base: Path, tmp_path: Path) -> None:
    for number in range(2_500):
        (folder / f"a{number}.npz").touch()  # before the adapter's in the order of names
    report = look(folder, base)
    assert report.is_accepted
    assert [problem.code for problem in report.warnings] == ["too_many_files"]
    assert fetch(str(folder), tmp_path / "scratch", allowed=ANY) == folder


def test_a_taken_file_that_is_too_large_is_refused_among_thousands_as_well(folder: Path, base: Path) -> None:
    for number in range(2_500):
        (folder / f"a{number}.npz").touch()
    sparse(folder / TENSORS, 100_001)
    assert "file_too_large" in {problem.code for problem in look(folder, base).errors}


def test_a_link_out_is_refused_among_thousands_of_files_as_well(folder: Path, base: Path, tmp_path: Path) -> None:
    shutil.move(folder / TENSORS, tmp_path / "elsewhere")
    (folder / TENSORS).symlink_to(tmp_path / "elsewhere")
    for number in range(2_500):
        (folder / f"a{number}.npz").touch()
    assert "link_outside" in {problem.code for problem in look(folder, base).errors}


def test_hidden_folders_are_not_looked_into(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, folder.parent / ".git" / "lfs")
    assert fetch(str(folder.parent), tmp_path / "scratch", allowed=ANY) == folder


# Stand-ins


@pytest.mark.parametrize(
    ("content", "code", "told"),
    [
        (POINTER, "git_lfs_pointer", "git lfs pull"),
        (LOGIN, "web_page", "credentials"),
        (b"", "file_empty", "again"),
        (POINTER.replace(b"\n", b"\r\n"), "git_lfs_pointer", "git lfs pull"),
        (b"\xef\xbb\xbf" + POINTER, "git_lfs_pointer", "git lfs pull"),
        (POINTER.replace(b"git-lfs.github.com/spec", b"hawser.github.com/spec"), "git_lfs_pointer", "git lfs pull"),
        (b"\xef\xbb\xbf  <HTML>", "web_page", "URL"),
        (b"<?xml version='1.0'?><Error/>", "web_page", "URL"),
    ],
)
@pytest.mark.parametrize("name", [TENSORS, CONFIG, "tokenizer.json", "tokenizer_config.json"])
def test_what_stands_in_for_a_file_is_named_with_its_own_remedy(
    folder: Path, base: Path, name: str, content: bytes, code: str, told: str
) -> None:
    (folder / name).write_bytes(content)
    report = look(folder, base)
    [problem] = [problem for problem in report.problems if problem.code == code]
    assert told in problem.remedy
    assert report.is_accepted is (name not in (TENSORS, CONFIG))
    if not report.is_accepted:
        with pytest.raises(InvalidArtifact, match=told):
            read_manifest(folder)


@pytest.mark.parametrize(("content", "told"), [(POINTER, "git lfs pull"), (LOGIN, "web page"), (b"", "empty")])
def test_what_stands_in_for_an_archive_is_named(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "a.tar.gz").write_bytes(content)
    with pytest.raises((UnsafeArchive, SourceNotFound), match=told if content else "archive|adapter"):
        fetch(str(tmp_path / "a.tar.gz"), tmp_path / "scratch", allowed=ANY)


def test_an_archive_of_a_pointer_says_so_when_it_is_verified(folder: Path, base: Path, tmp_path: Path) -> None:
    (folder / TENSORS).write_bytes(POINTER)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(folder, "a")
    taken = fetch(str(tmp_path / "a.tar"), tmp_path / "scratch", allowed=ANY)
    assert "git_lfs_pointer" in {problem.code for problem in look(taken, base).errors}


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("Adapter_Config.json", TENSORS), "lower case"),
        ((CONFIG, "adapter_model.SafeTensors"), "lower case"),
        ((CONFIG, "adapter_model-00001-of-00002.safetensors", "adapter_model.safetensors.index.json"), "in shards"),
        ((CONFIG, "adapters.safetensors"), "MLX"),
    ],
)
def test_an_adapter_under_other_names_is_told_how_to_be_called(
    tmp_path: Path, names: tuple[str, ...], told: str
) -> None:
    (tmp_path / "a").mkdir()
    for name in names:
        (tmp_path / "a" / name).write_bytes(b"{}")
    with pytest.raises(SourceNotFound, match=told):
        fetch(str(tmp_path / "a"), tmp_path / "scratch", allowed=ANY)


# Hugging Face's cache


def test_a_hugging_face_cache_registers_with_its_own_content(folder: Path, base: Path, tmp_path: Path) -> None:
    snapshot = cached(folder, tmp_path / "hub")
    report = look(fetch(str(snapshot), tmp_path / "scratch", allowed=ANY), base)
    assert report.is_accepted
    assert report.manifest is not None
    copy = take_copy(snapshot, tmp_path / "registry", report.manifest)
    assert not (copy / TENSORS).is_symlink()
    assert read_manifest(copy).digest == read_manifest(folder).digest


def test_links_of_a_cache_that_lead_elsewhere_stay_refused(folder: Path, base: Path, tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    snapshot = cached(folder, hub)
    other = hub / "models--org--other" / "blobs"
    other.mkdir(parents=True)
    for target in (
        tmp_path / "secret",
        other / "x",
        hub / "models--org--support" / "blobs" / "deep" / "x",
        hub / "models--org--support" / "refs",
    ):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"x")
        link = snapshot / "README.md"
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        assert "link_outside" in {problem.code for problem in look(snapshot, base).errors}, target
    link.unlink()
    # A link within the blobs that leads on, and a folder that only looks like a cache.
    (hub / "models--org--support" / "blobs" / "on").symlink_to(tmp_path / "secret")
    link.symlink_to("../../blobs/on")
    assert "link_outside" in {problem.code for problem in look(snapshot, base).errors}
    with pytest.raises(SourceNotAllowed):
        fetch(str(snapshot), tmp_path / "scratch", allowed=Allowed(prefixes=(str(snapshot),)))


# Tokens and starts


def test_a_padding_token_beyond_the_vocabulary_is_a_warning_without_embeddings(folder: Path, base: Path) -> None:
    (folder / "tokenizer.json").write_text(tokenizer(**{"[PAD]": 16}))
    report = look(folder, base)
    assert report.is_accepted
    assert "padding_beyond_base" in {problem.code for problem in report.warnings}
    (folder / "tokenizer.json").write_text(tokenizer(filler=16))
    assert not look(folder, base).is_accepted
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "filler"}))
    assert look(folder, base).is_accepted
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "filler", "eos_token": "filler"}))
    assert not look(folder, base).is_accepted


def test_a_padding_token_beyond_the_vocabulary_is_refused_with_embeddings(folder: Path, base: Path) -> None:
    embeddings = {"base_model.model.lm_head.base_layer.weight": ("F32", [16, 8], bytes(512))}
    write_adapter(folder, tensors=fitting_tensors() | embeddings)
    (folder / "tokenizer.json").write_text(tokenizer(**{"[PAD]": 16}))
    assert "tokens_beyond_base" in {problem.code for problem in look(folder, base).errors}


@pytest.mark.parametrize("start", ["lora_ga", "LoRA_GA"])
def test_a_start_that_changed_the_base_while_training_is_warned_of(folder: Path, base: Path, start: str) -> None:
    write_adapter(folder, tensors=fitting_tensors(), init_lora_weights=start)
    report = look(folder, base)
    assert report.is_accepted
    assert "init_changed_base" in {problem.code for problem in report.warnings}


@pytest.mark.parametrize("start", ["pissa", "PiSSA_niter_16", "olora", "corda", "loftq"])
def test_a_start_that_vllm_would_need_to_change_the_base_for_stays_refused(
    folder: Path, base: Path, start: str
) -> None:
    write_adapter(folder, tensors=fitting_tensors(), init_lora_weights=start)
    assert "init_changes_base" in {problem.code for problem in look(folder, base).errors}


# Where sources may lead


@pytest.mark.parametrize(
    "rest",
    [
        "..\\secret",
        "a\\..\\secret",
        "a%5c..%5csecret",
        "%2e%2e/secret",
        "%252e%252e/secret",
        "%25252e%25252e/secret",
        "%2525252525252525252e./x",
        "a/%2E./x",
        ".%2e/x",
        "..%2fx",
        "..%252fx",
        "%2e%2e%5cx",
        "a/..;/x",
        "a/..;v=1/x",
        "a/.. /x",
        "\uff0e\uff0e/x",
        "\u2025/x",
        "a\uff3c..\uff3cx",
        "a%00/x",
        "a%0d%0a/x",
        "./x",
        "a/./x",
    ],
)
def test_a_url_that_a_server_may_take_for_another_place_is_refused(rest: str) -> None:
    allowed = Allowed(prefixes=("https://models.example/loras",))
    with pytest.raises(SourceNotAllowed):
        check_url(f"https://models.example/loras/{rest}", allowed)


@pytest.mark.parametrize(
    "rest", ["a b", "a%20b", "v1.2..3/a", "...", "a..b", "100%25", "r%C3%A9sum%C3%A9", "a;b/c", "..a"]
)
def test_an_odd_but_plain_url_is_fetched(rest: str) -> None:
    allowed = Allowed(prefixes=("https://models.example/loras",))
    assert check_url(f"https://models.example/loras/{rest}", allowed) == "https"


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _two(path: Path) -> None:
    path.symlink_to(path.with_name("other"))
    path.with_name("other").symlink_to(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path)[:100])


@pytest.mark.parametrize("make", [_loop, _two, os.mkfifo, lambda path: path.symlink_to("nowhere"), lambda _: None])
@pytest.mark.parametrize("below", ["", "/deeper/a", ".tar.gz/x"])
@pytest.mark.parametrize("any_local", [True, False])
def test_a_path_that_leads_nowhere_is_a_clear_refusal(
    tmp_path: Path, make: Callable[[Path], object], below: str, any_local: bool
) -> None:
    make(tmp_path / "a")
    allowed = Allowed(any_local=any_local, prefixes=(str(tmp_path), str(tmp_path / "a" / "b")))
    with pytest.raises(SourceError) as refused:
        fetch(f"{tmp_path}/a{below}", tmp_path / "scratch", allowed=allowed)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 900 + "x", "a\0b", "a\nb", "\ud800", "x" * 3_000, "\u202ea"])
def test_a_name_that_can_be_none_is_a_clear_refusal(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError):
        fetch(f"{tmp_path}/{name}", tmp_path / "scratch", allowed=ANY)


@pytest.mark.parametrize("make", [_loop, os.mkfifo, Path.mkdir, _socket])
@pytest.mark.parametrize("name", [CONFIG, TENSORS, "tokenizer.json", "adapter.sig"])
def test_what_is_no_file_in_an_adapter_is_refused_or_left_alone(
    folder: Path, base: Path, name: str, make: Callable[[Path], object]
) -> None:
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    report = look(folder, base)
    assert report.problems or make is Path.mkdir
    assert name not in (CONFIG, TENSORS) or not report.is_accepted


@pytest.mark.parametrize("name", [CONFIG, TENSORS])
@pytest.mark.parametrize("depth", [65, 300, 900, 200_000])
def test_deep_nesting_is_a_problem_and_no_error_of_ours(folder: Path, base: Path, name: str, depth: int) -> None:
    deep = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
    (folder / name).write_bytes(deep if name == CONFIG else len(deep).to_bytes(8, "little") + deep)
    assert not look(folder, base).is_accepted

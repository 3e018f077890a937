"""Adapters as values: names, versions, lives, catalogs; folders that are read; loads that are tried again."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from adapters import loader
from adapters.artifact import InvalidArtifact, read_manifest, take_copy
from adapters.catalog import Catalog, Entry, UnknownVersion
from adapters.lifecycle import TRANSITIONS, Event, IllegalEvent, State, advance
from adapters.loader import HostUnavailable, LoadRefused, bring_up, reconcile
from adapters.manifest import Manifest
from adapters.reference import AdapterRef, InvalidReference, check_name, split_version
from tests.flow.adapters import adapter_folder

MANIFEST = Manifest(
    digest="ab" * 32, base="base", rank=1, alpha=2.0, target_modules=("q_proj",), size_bytes=1, tensors=1
)


def entry(name: str = "support", digest: str = "ab" * 32) -> Entry:
    return Entry(ref=AdapterRef(name, digest), manifest=MANIFEST, folder="/registry/x", source="/home/x", created=1)


# Names


@pytest.mark.parametrize("name", ["support", "a", "A.b_c-9", "x" * 64])
def test_a_good_name_is_taken(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", ".a", "a b", "a/b", "a@b", "x" * 65, "é", "auto", "a\n"])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidReference):
        check_name(name)


@pytest.mark.parametrize("digest", ["", "ab", "AB" * 32, "ab" * 33, "zz" * 32])
def test_a_reference_needs_a_digest(digest: str) -> None:
    with pytest.raises(InvalidReference):
        AdapterRef("support", digest)


def test_a_version_is_written_with_twelve_digits() -> None:
    assert str(AdapterRef("support", "0123456789abcdef" * 4)) == "support@0123456789ab"


def test_a_version_is_split_at_its_sign() -> None:
    assert split_version("support@012345") == ("support", "012345")


@pytest.mark.parametrize(
    "version", ["support", "support@", "support@01234", "support@ABCDEF", "@012345", "a@b@012345", "auto@012345"]
)
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(InvalidReference):
        split_version(version)


# Lives


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("event", list(Event))
def test_a_life_has_the_steps_of_the_table_and_no_others(state: State, event: Event) -> None:
    if (state, event) in TRANSITIONS:
        assert advance(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(IllegalEvent):
            advance(state, event)


def test_an_illegal_event_leaves_the_entry_as_it_was() -> None:
    one = entry()
    with pytest.raises(IllegalEvent):
        one.after(Event.LOADED)
    assert one.state is State.REGISTERED
    assert one.after(Event.LOAD).after(Event.LOAD_FAILED, "too large").reason == "too large"


# The catalog


def test_a_catalog_is_changed_by_making_another() -> None:
    first, second, other = entry(), entry(digest="cd" * 32), entry("legal")
    empty = Catalog()
    full = Catalog.of([first]).with_entry(second).with_entry(other)
    assert (len(empty), len(full)) == (0, 3)
    assert list(full) == [first, second, other]
    assert full.get(second.ref.version) is second
    assert full.of_name("support") == (first, second)
    less = full.without(first.ref.version)
    assert (list(less), len(full)) == ([second, other], 3)
    with pytest.raises(UnknownVersion, match="is not registered"):
        less.get(first.ref.version)


# Folders


def test_a_folder_is_read_and_its_copy_is_the_same(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "a", 1)
    manifest = read_manifest(folder)
    assert (manifest.base, manifest.rank, manifest.alpha, manifest.target_modules, manifest.tensors) == (
        "base",
        1,
        2.0,
        ("q_proj",),
        1,
    )
    copy = take_copy(folder, tmp_path / "registry", manifest)
    assert read_manifest(copy) == manifest
    assert take_copy(folder, tmp_path / "registry", manifest) == copy
    assert [path.name for path in (tmp_path / "registry").iterdir()] == [manifest.digest]


def test_the_digest_covers_content_and_not_form(tmp_path: Path) -> None:
    first = adapter_folder(tmp_path / "a", 1)
    config = json.loads((first / "adapter_config.json").read_text())
    same = adapter_folder(tmp_path / "b", 1)
    (same / "adapter_config.json").write_text(
        json.dumps({"inference_mode": True, **dict(reversed(config.items()))}, indent=4)
    )
    assert read_manifest(first).digest == read_manifest(same).digest
    assert read_manifest(adapter_folder(tmp_path / "c", 2)).digest != read_manifest(first).digest


def test_a_folder_that_changes_while_it_is_copied_is_refused(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "a", 1)
    manifest = read_manifest(folder)
    tensors = folder / "adapter_model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\xff")
    with pytest.raises(InvalidArtifact, match="changed"):
        take_copy(folder, tmp_path / "registry", manifest)
    assert list((tmp_path / "registry").iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"r": 0}, {"r": -1}, {"r": None}, {"r": "8"}, {"r": True}, {"r": 1.5}, {"lora_alpha": 0}, {"peft_type": "IA3"},
    ],
    ids=str,
)  # fmt: skip
def test_a_config_that_cannot_be_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = adapter_folder(tmp_path / "a", 1)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InvalidArtifact):
        read_manifest(folder)


@pytest.mark.parametrize("config", ["", "[]", "{", "[" * 100_000, "null"])
def test_a_config_that_is_no_object_is_refused(tmp_path: Path, config: str) -> None:
    folder = adapter_folder(tmp_path / "a", 1)
    (folder / "adapter_config.json").write_text(config)
    with pytest.raises(InvalidArtifact):
        read_manifest(folder)


def safetensors(header: bytes, data: bytes = b"x") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


@pytest.mark.parametrize(
    "content",
    [
        b"", b"1234", b"\xff" * 8, b"\x80\x04pickle", safetensors(b"{"), safetensors(b"[]"), safetensors(b'{"a":1}'),
        safetensors(b'{"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}}'),
        safetensors(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}}'),
        safetensors(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[-1,0]}}'),
        safetensors(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}}'),
        safetensors(b'{"a":{"dtype":"U8","shape":5,"data_offsets":[0,1]}}'),
        safetensors(b"[" * 100_000),
    ],
)  # fmt: skip
def test_a_tensors_file_that_cannot_be_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = adapter_folder(tmp_path / "a", 1)
    (folder / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(InvalidArtifact):
        read_manifest(folder)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArtifact, match="is not a folder"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(InvalidArtifact, match=r"adapter_config\.json"):
        read_manifest(tmp_path)
    folder = adapter_folder(tmp_path / "a", 1)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(InvalidArtifact, match="pickle"):
        read_manifest(folder)


def test_target_modules_may_be_a_pattern_or_missing(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "a", 1)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    for given, read in (("all-linear", ("all-linear",)), (["v", "q"], ("q", "v")), (None, ())):
        path.write_text(json.dumps({**config, "target_modules": given}))
        assert read_manifest(folder).target_modules == read


# Loads


class Host:
    """An engine that is away for some tries, and refuses some versions."""

    def __init__(self, *, away: int = 0, refuses: Collection[str] = (), has: Collection[str] = ()) -> None:
        self.away, self.refuses, self.has, self.tries = away, refuses, set(has), 0

    async def loaded(self) -> Collection[str]:
        return self.has

    async def load(self, version: str, folder: str) -> None:
        self.tries += 1
        if self.tries <= self.away:
            raise HostUnavailable("away")
        if version in self.refuses:
            raise LoadRefused("too large")
        self.has.add(version)

    async def unload(self, version: str) -> None:
        self.has.discard(version)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "RETRY_PAUSES", (0, 0, 0))


def run(work: Any) -> Any:
    import asyncio

    return asyncio.run(work)


@pytest.mark.usefixtures("quick")
def test_a_load_is_tried_again_while_the_engine_is_away() -> None:
    host = Host(away=3)
    run(bring_up(host, entry()))
    assert (host.tries, host.has) == (4, {"support@abababababab"})
    with pytest.raises(HostUnavailable):
        run(bring_up(Host(away=4), entry()))


@pytest.mark.usefixtures("quick")
def test_a_refusal_is_final() -> None:
    host = Host(refuses={"support@abababababab"})
    with pytest.raises(LoadRefused):
        run(bring_up(host, entry()))
    assert host.tries == 1


@pytest.mark.usefixtures("quick")
def test_an_engine_is_brought_what_it_lacks() -> None:
    there, new, bad = entry(digest="11" * 32), entry(digest="22" * 32), entry(digest="33" * 32)
    host = Host(has={there.ref.version, "somebody@elses"}, refuses={bad.ref.version})
    versions, failed = run(reconcile(host, [there, new, bad]))
    assert versions == {there.ref.version, new.ref.version}
    assert failed == {bad.ref.version: "too large"}
    assert host.tries == 2

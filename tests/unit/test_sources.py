"""Sources: what may be fetched, local folders and tar archives, stores in memory, broken reads."""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import random
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from adapters.artifact import InvalidArtifact, read_manifest
from adapters.sources import (
    Allowed,
    DigestMismatch,
    FetchLimits,
    SourceError,
    SourceNotAllowed,
    SourceNotFound,
    SourceTooLarge,
    SourceUnavailable,
    UnsafeArchive,
    discard,
    fetch,
    sweep,
)
from adapters.sources.allowed import is_under
from adapters.sources.archives import unpack
from tests.support.adapter_folders import write_adapter
from tests.support.examples import examples

ANY = Allowed(any_local=True, prefixes=("memory://loras",))
QUICK = FetchLimits(backoff_seconds=0.0, chunk_bytes=64)
NAMES = ("adapter_config.json", "adapter_model.safetensors")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "support")


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


@pytest.fixture
def memory(adapter: Path) -> Iterator[fsspec.AbstractFileSystem]:
    """fsspec's store in memory, with the adapter at memory://loras/support/."""
    store = fsspec.filesystem("memory")
    for name in NAMES:
        store.pipe(f"/loras/support/{name}", (adapter / name).read_bytes())
    yield store
    store.rm("/loras", recursive=True)


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".tgz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def pack(path: Path, add: Callable[[tarfile.TarFile], None]) -> Path:
    """Write a tar archive, compressed as its name says."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        add(tar)
    path.write_bytes(COMPRESSIONS.get(path.suffix, bytes)(content.getvalue()))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


# What may be fetched


@pytest.mark.parametrize("prefix", ["s3://models/loras", "s3://models/loras/"])
@pytest.mark.parametrize(
    ("url", "is_below"),
    [
        ("s3://models/loras", True),
        ("s3://models/loras/", True),
        ("s3://models/loras/support", True),
        ("s3://models/loras-evil", False),
        ("s3://models/loras-evil/support", False),
        ("s3://models", False),
        ("s3a://models/loras/support", False),
        ("S3://models/loras/support", False),
    ],
)
def test_a_url_is_under_a_prefix_folder_by_folder(prefix: str, url: str, is_below: bool) -> None:
    assert is_under(url, prefix) is is_below


@pytest.mark.parametrize(
    "source",
    [
        "s3://models/loras-evil/x.tar",
        "s3://models/loras/../secret/",
        "s3://models/loras/%2e%2e/secret/",
        "s3://models/loras/..%2fsecret/",
        "s3://models/loras/./x/",
        "https://models/loras/",
        "simplecache::s3://models/loras/x.tar",
        "zip://x::s3://models/loras/x.zip",
        "s3://models/loras/x.tar?versionId=1",
        "s3://models/loras/x#y",
        "models/loras",
        "~/loras",
        "",
        "s3://models/loras/\n",
        "/srv/\0",
        "file://host/srv",
        "/etc",
    ],
)
def test_what_is_not_under_the_allow_list_is_refused(source: str, scratch: Path) -> None:
    with pytest.raises(SourceNotAllowed):
        fetch(source, scratch, allowed=Allowed(prefixes=("s3://models/loras", "/srv/adapters")))
    assert not scratch.exists()


def test_a_refusal_names_the_setting(scratch: Path) -> None:
    with pytest.raises(SourceNotAllowed, match=r"`s3://elsewhere/x` .*`adapters\.sources`"):
        fetch("s3://elsewhere/x", scratch, allowed=ANY)


def test_a_password_in_a_url_is_refused_and_not_repeated(scratch: Path) -> None:
    with pytest.raises(SourceNotAllowed) as refused:
        fetch("sftp://me:hunter2@host/loras", scratch, allowed=Allowed(prefixes=("sftp://me:hunter2@host",)))
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("prefix", ["", "loras", "s3:/models"])
def test_a_prefix_that_is_no_place_is_refused(prefix: str) -> None:
    with pytest.raises(SourceNotAllowed, match=r"`adapters\.sources`"):
        Allowed(prefixes=(prefix,))


def test_options_of_stores_are_not_shown() -> None:
    assert "hunter2" not in repr(Allowed(storage_options={"s3": {"secret": "hunter2"}}))


# Local folders


def test_a_local_folder_is_used_where_it_is(adapter: Path, scratch: Path) -> None:
    assert fetch(str(adapter), scratch, allowed=ANY) == adapter
    assert fetch(f"file://{adapter}", scratch, allowed=ANY) == adapter
    assert not scratch.exists()


def test_a_local_folder_under_the_allow_list_is_taken(adapter: Path, scratch: Path) -> None:
    allowed = Allowed(prefixes=(str(adapter.parent),))
    assert fetch(str(adapter), scratch, allowed=allowed) == adapter
    with pytest.raises(SourceNotAllowed):
        fetch(str(adapter.parent.parent), scratch, allowed=allowed)


def test_dots_and_links_do_not_lead_out_of_the_allow_list(adapter: Path, tmp_path: Path, scratch: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(adapter)
    copy = write_adapter(inside / "copy", seed=2)
    (copy / NAMES[1]).unlink()
    (copy / NAMES[1]).symlink_to(adapter / NAMES[1])
    for source in (inside / "link", f"{inside}/../support", copy):
        with pytest.raises(SourceNotAllowed):
            fetch(str(source), scratch, allowed=Allowed(prefixes=(str(inside),)))


@pytest.mark.parametrize("name", ["nowhere", "notes.txt", "adapter.zip", "pipe"])
def test_a_local_path_that_is_no_source_is_not_found(name: str, tmp_path: Path, scratch: Path) -> None:
    if name == "pipe":
        os.mkfifo(tmp_path / name)
    elif name != "nowhere":
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(SourceNotFound, match=name):
        fetch(str(tmp_path / name), scratch, allowed=ANY)


# Archives


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"])
@pytest.mark.parametrize("top", ["", "./", "support/"])
def test_an_adapter_is_unpacked_from_each_kind_of_archive(
    suffix: str, top: str, adapter: Path, tmp_path: Path, scratch: Path
) -> None:
    archive = tmp_path / f"adapter{suffix}"

    def add(tar: tarfile.TarFile) -> None:
        for name in NAMES:
            tar.add(adapter / name, f"{top}{name}")

    pack(archive, add)
    folder = fetch(str(archive), scratch, allowed=ANY)
    assert folder.is_relative_to(scratch)
    assert read_manifest(folder) == read_manifest(adapter)
    assert fetch(str(archive), scratch, allowed=ANY) == folder


def test_only_an_adapter_s_files_are_unpacked(adapter: Path, tmp_path: Path, scratch: Path) -> None:
    (adapter / "optimizer.pt").write_bytes(b"x" * 1000)
    (adapter / "chat_template.jinja").write_text("{{ messages }}")
    archive = pack(tmp_path / "x.tar", lambda tar: tar.add(adapter, "."))
    folder = fetch(str(archive), scratch, allowed=ANY)
    assert {path.name for path in folder.iterdir()} == {*NAMES, "chat_template.jinja"}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (member("/etc/passwd"), "absolute path"),
        (member("a/../../adapter_config.json"), "leaves the archive"),
        (member("adapter_model.bin", tarfile.SYMTYPE, linkname="/etc/passwd"), "link to `/etc/passwd`"),
        (member("hard", tarfile.LNKTYPE, linkname="adapter_config.json"), "link to `adapter_config.json`"),
        (member("null", tarfile.CHRTYPE, devmajor=1, devminor=3), "device or a pipe"),
        (member("disk", tarfile.BLKTYPE), "device or a pipe"),
        (member("fifo", tarfile.FIFOTYPE), "device or a pipe"),
        (member("holes", pax_headers={"GNU.sparse.size": "1000000000000", "GNU.sparse.map": "0,0"}), "sparse"),
        (member("a\nb"), "control characters"),
        (member("x" * 300), "longer than 255 bytes"),
    ],
    ids=["absolute", "dots", "symlink", "hardlink", "device", "disk", "fifo", "sparse", "newline", "long"],
)
def test_a_member_that_could_write_elsewhere_is_refused_by_name(
    bad: tarfile.TarInfo, reason: str, adapter: Path, tmp_path: Path, scratch: Path
) -> None:
    def add(tar: tarfile.TarFile) -> None:
        tar.add(adapter, "support")
        tar.addfile(bad)

    with pytest.raises(UnsafeArchive, match=reason) as refused:
        fetch(str(pack(tmp_path / "x.tar", add)), scratch, allowed=ANY)
    assert repr(bad.name[:200])[1:-1] in str(refused.value)
    assert [path.name for path in scratch.iterdir() if not path.name.startswith(".lock")] == []


def test_a_member_that_is_there_twice_is_refused(adapter: Path, tmp_path: Path, scratch: Path) -> None:
    def add(tar: tarfile.TarFile) -> None:
        tar.add(adapter, "support")
        tar.add(adapter / NAMES[0], f"support/{NAMES[0]}")

    with pytest.raises(UnsafeArchive, match="twice"):
        fetch(str(pack(tmp_path / "x.tar", add)), scratch, allowed=ANY)


def test_a_file_and_a_folder_of_one_name_are_refused(adapter: Path, tmp_path: Path, scratch: Path) -> None:
    def add(tar: tarfile.TarFile) -> None:
        tar.add(adapter / NAMES[0], NAMES[0])
        tar.add(adapter / NAMES[1], f"{NAMES[0]}/{NAMES[1]}")

    with pytest.raises(UnsafeArchive, match="damaged"):
        fetch(str(pack(tmp_path / "x.tar", add)), scratch, allowed=ANY)


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.bz2", ".tar.xz"])
def test_a_bomb_stops_at_the_limit(suffix: str, tmp_path: Path, scratch: Path) -> None:
    bomb = member("zeros", size=20_000_000)
    archive = pack(tmp_path / f"x{suffix}", lambda tar: tar.addfile(bomb, io.BytesIO(bytes(bomb.size))))
    assert archive.stat().st_size < 100_000
    with pytest.raises(SourceTooLarge, match="more than 1,000,000 bytes"):
        fetch(str(archive), scratch, allowed=ANY, limits=FetchLimits(unpacked_bytes=1_000_000))


def test_a_header_that_unpacks_to_much_is_refused(tmp_path: Path, scratch: Path) -> None:
    header = member("x", tarfile.XHDTYPE, size=50_000_000)
    archive = pack(tmp_path / "x.tar.gz", lambda tar: tar.addfile(header, io.BytesIO(bytes(header.size))))
    with pytest.raises(UnsafeArchive, match="header of 50,0"):
        fetch(str(archive), scratch, allowed=ANY)


def test_an_archive_of_very_many_members_is_refused(tmp_path: Path, scratch: Path) -> None:
    def add(tar: tarfile.TarFile) -> None:
        for n in range(200):
            tar.addfile(member(f"f{n}"))

    archive = pack(tmp_path / "x.tar.gz", add)
    with pytest.raises(SourceTooLarge, match="100 members"):
        fetch(str(archive), scratch, allowed=ANY, limits=FetchLimits(members=100))


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_a_damaged_archive_is_a_refusal_wherever_it_is_cut(
    suffix: str, adapter: Path, tmp_path: Path, scratch: Path
) -> None:
    whole = pack(tmp_path / f"x{suffix}", lambda tar: tar.add(adapter, "support")).read_bytes()
    cut = tmp_path / f"cut{suffix}"
    # A plain tar's last kilobytes are padding: without them nothing is lost.
    for length in range(0, len(whole) - (9000 if suffix == ".tar" else 60), 37):
        cut.write_bytes(whole[:length])
        with pytest.raises((UnsafeArchive, SourceNotFound)):
            fetch(str(cut), scratch, allowed=ANY)
    assert not list(scratch.glob("fetched-*"))


DAMAGED = examples(300)


def test_an_archive_with_flipped_bytes_is_unpacked_or_refused_and_nothing_else(adapter: Path, tmp_path: Path) -> None:
    def add(tar: tarfile.TarFile) -> None:
        tar.add(adapter, "support")
        tar.addfile(member("n" * 150, pax_headers={"comment": "x" * 300}))

    whole = pack(tmp_path / "x.tar", add).read_bytes()
    source = random.Random(1)
    for number in range(DAMAGED):
        damaged = bytearray(whole)
        block = source.randrange(len(whole) // 512) * 512
        damaged[block + source.randrange(512)] = source.randrange(256)
        # A header's checksum made right again, or tarfile would stop at it every time.
        header = bytearray(damaged[block : block + 512])
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        damaged[block : block + 512] = header
        (tmp_path / "x.tar").write_bytes(damaged)
        out = tmp_path / f"out{number}"
        out.mkdir()
        with contextlib.suppress(UnsafeArchive, SourceTooLarge):
            unpack(tmp_path / "x.tar", out, "x", FetchLimits(unpacked_bytes=len(whole)))
        assert {path.name for path in out.rglob("*") if path.is_file()} <= {*NAMES}
    assert {path.name for path in tmp_path.iterdir()} == {"support", "x.tar", *(f"out{n}" for n in range(DAMAGED))}


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\x00", b"PK\x03\x04" * 200, os.urandom(4000)])
def test_what_is_no_archive_is_refused(content: bytes, tmp_path: Path, scratch: Path) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(UnsafeArchive, match="no tar archive"):
        fetch(str(tmp_path / "x.tar"), scratch, allowed=ANY)


# The expected digest


@pytest.mark.parametrize("form", ["{}", "sha256:{}", "{:.12}", "sha256:{:.20}"])
def test_the_expected_digest_is_taken_in_each_of_its_forms(form: str, adapter: Path, scratch: Path) -> None:
    digest = read_manifest(adapter).digest
    assert fetch(str(adapter), scratch, allowed=ANY, expected_digest=form.format(digest)) == adapter


def test_another_digest_is_a_mismatch_that_names_both(adapter: Path, scratch: Path) -> None:
    with pytest.raises(DigestMismatch) as refused:
        fetch(str(adapter), scratch, allowed=ANY, expected_digest="0" * 64)
    assert "0" * 64 in str(refused.value)
    assert read_manifest(adapter).digest in str(refused.value)
    assert adapter.exists()


@pytest.mark.parametrize("digest", ["", "0" * 11, "0" * 65, "md5:" + "0" * 32, "xyz" * 10])
def test_what_is_no_digest_is_refused(digest: str, adapter: Path, scratch: Path) -> None:
    with pytest.raises(SourceError, match="not one"):
        fetch(str(adapter), scratch, allowed=ANY, expected_digest=digest)


def test_a_fetched_adapter_of_another_digest_does_not_stay(
    memory: fsspec.AbstractFileSystem, adapter: Path, scratch: Path
) -> None:
    with pytest.raises(DigestMismatch):
        fetch("memory://loras/support", scratch, allowed=ANY, expected_digest="0" * 12)
    memory.pipe("/loras/support/adapter_config.json", b"{}")
    with pytest.raises(InvalidArtifact):
        fetch("memory://loras/support", scratch, allowed=ANY, expected_digest="0" * 12)
    assert not list(scratch.glob("fetched-*"))


# Stores


def test_a_folder_is_fetched_from_a_store(memory: fsspec.AbstractFileSystem, adapter: Path, scratch: Path) -> None:
    told: list[tuple[int, int | None]] = []
    folder = fetch(
        "memory://loras/support/", scratch, allowed=ANY, limits=QUICK, progress=lambda *each: told.append(each)
    )
    assert read_manifest(folder) == read_manifest(adapter)
    total = sum((adapter / name).stat().st_size for name in NAMES)
    assert told[0] == (0, total)
    assert told[-1] == (total, total)
    assert told == sorted(told)


def test_an_unchanged_source_is_not_read_again(memory: fsspec.AbstractFileSystem, scratch: Path) -> None:
    first = fetch("memory://loras/support", scratch, allowed=ANY)
    told: list[object] = []
    assert fetch("memory://loras/support", scratch, allowed=ANY, progress=lambda *each: told.append(each)) == first
    assert told == []


def test_a_changed_source_is_read_again(memory: fsspec.AbstractFileSystem, tmp_path: Path, scratch: Path) -> None:
    fetch("memory://loras/support", scratch, allowed=ANY)
    other = write_adapter(tmp_path / "other", seed=2)
    memory.pipe(f"/loras/support/{NAMES[1]}", (other / NAMES[1]).read_bytes())
    again = fetch("memory://loras/support", scratch, allowed=ANY)
    assert read_manifest(again) == read_manifest(other)


def test_the_one_checkpoint_in_a_store_is_found(
    memory: fsspec.AbstractFileSystem, adapter: Path, scratch: Path
) -> None:
    for name in (*NAMES, "optimizer.pt"):
        memory.pipe(f"/loras/run/checkpoint-7/{name}", (adapter / name).read_bytes() if name in NAMES else b"x" * 999)
    folder = fetch("memory://loras/run", scratch, allowed=ANY)
    assert folder.name == "checkpoint-7"
    assert {path.name for path in folder.iterdir()} == set(NAMES)


@pytest.mark.parametrize("name", ["nowhere", "nowhere/", "nowhere.tar.gz", f"support/{NAMES[0]}"])
def test_what_is_not_in_the_store_is_not_found(name: str, memory: fsspec.AbstractFileSystem, scratch: Path) -> None:
    with pytest.raises(SourceNotFound, match=name.rstrip("/")):
        fetch(f"memory://loras/{name}", scratch, allowed=ANY)


def test_a_store_s_files_beyond_the_limit_are_refused_before_they_are_read(
    memory: fsspec.AbstractFileSystem, scratch: Path
) -> None:
    told: list[tuple[int, int | None]] = []
    with pytest.raises(SourceTooLarge, match="limit is 100"):
        fetch(
            "memory://loras/support",
            scratch,
            allowed=ANY,
            limits=FetchLimits(download_bytes=100),
            progress=lambda done, of: told.append((done, of)),
        )
    assert told == []


def test_a_store_without_its_library_says_what_to_install(scratch: Path) -> None:
    # gcsfs is no dependency of ours: this is what a missing s3fs looks like, too.
    with pytest.raises(SourceUnavailable, match="needs a library that is not installed: install"):
        fetch("gs://loras/x", scratch, allowed=Allowed(prefixes=("gs://loras",)))


def test_a_protocol_that_nobody_knows_is_refused(scratch: Path) -> None:
    with pytest.raises(SourceNotAllowed, match="`floppy`"):
        fetch("floppy://a/x", scratch, allowed=Allowed(prefixes=("floppy://a",)))


def test_an_error_of_the_progress_callback_ends_the_fetch_and_the_next_goes_on(
    memory: fsspec.AbstractFileSystem, adapter: Path, scratch: Path
) -> None:
    class Stop(Exception):
        pass

    def stop(done: int, total: int | None) -> None:
        if total is not None and done > total // 2:
            raise Stop

    with pytest.raises(Stop):
        fetch("memory://loras/support", scratch, allowed=ANY, limits=QUICK, progress=stop)
    assert not list(scratch.glob("fetched-*"))
    told: list[int] = []
    folder = fetch(
        "memory://loras/support", scratch, allowed=ANY, limits=QUICK, progress=lambda done, _: told.append(done)
    )
    assert read_manifest(folder) == read_manifest(adapter)
    assert len(told) < sum((adapter / name).stat().st_size for name in NAMES) // QUICK.chunk_bytes


def test_fetches_of_one_source_wait_for_each_other(
    memory: fsspec.AbstractFileSystem, adapter: Path, scratch: Path
) -> None:
    found: list[Path] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(fetch("memory://loras/support", scratch, allowed=ANY, limits=QUICK))
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert read_manifest(found[0]) == read_manifest(adapter)


# The scratch folder


def test_what_was_fetched_can_be_discarded(memory: fsspec.AbstractFileSystem, adapter: Path, scratch: Path) -> None:
    folder = fetch("memory://loras/support", scratch, allowed=ANY)
    discard(folder, scratch)
    assert not folder.exists()
    discard(adapter, scratch)
    assert adapter.exists()


def test_sweeping_takes_what_is_old_and_leaves_what_is_new(memory: fsspec.AbstractFileSystem, scratch: Path) -> None:
    fetched = fetch("memory://loras/support", scratch, allowed=ANY)
    (scratch / "part-x").write_bytes(b"x")
    (scratch / ".incoming-x").mkdir()
    os.utime(scratch / "part-x", (1, 1))
    os.utime(scratch / ".incoming-x", (1, 1))
    assert sweep(scratch, before=2.0) == 2
    assert fetched.exists()
    assert sweep(scratch, before=fetched.stat().st_mtime + 1) == 1
    assert not fetched.exists()

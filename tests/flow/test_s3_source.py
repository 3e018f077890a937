"""Sources over real sockets: an S3 server in its own process, a wire that is cut, a process that is killed."""

import functools
import http.server
import os
import random
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.artifact import read_manifest
from adapters.sources import (
    Allowed,
    DigestMismatch,
    FetchLimits,
    SourceAmbiguous,
    SourceNotAllowed,
    SourceNotFound,
    SourceTooLarge,
    SourceUnavailable,
    fetch,
)
from tests.support.adapter_folders import Tensors, write_adapter
from tests.support.s3 import KIB, LIMITS, allowed, s3
from tests.support.s3_server import S3Server, Wire

__all__ = ["s3"]  # the fixture

ONE_TRY = FetchLimits(chunk_bytes=64 * KIB, attempts=1)
# Headers of an answer, and the short answers around the ranged ones.
OVERHEAD = 16 * KIB


def large_tensors(seed: int) -> Tensors:
    """Two tensors of 1 MiB together."""
    source = random.Random(seed)
    names = (f"base_model.model.model.layers.0.self_attn.q_proj.lora_{half}.weight" for half in "AB")
    return {name: ("F16", [4, 64 * KIB], source.randbytes(512 * KIB)) for name in names}


@pytest.fixture
def wire(s3: S3Server) -> Iterator[Wire]:
    with Wire(s3.port) as wire:
        yield wire


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "support", tensors=large_tensors(1))


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


def whole_folders(scratch: Path) -> list[Path]:
    return list(scratch.glob("fetched-*"))


def part_bytes(scratch: Path) -> int:
    return sum(path.stat().st_size for path in scratch.glob("part-*"))


def test_a_folder_is_fetched_from_s3(s3: S3Server, wire: Wire, adapter: Path, scratch: Path) -> None:
    (adapter / "optimizer.pt").write_bytes(bytes(3_000_000))
    s3.put_folder("loras/folder", adapter)
    digest = read_manifest(adapter).digest
    folder = fetch("s3://models/loras/folder/", scratch, allowed=allowed(wire.url), expected_digest=digest)
    assert read_manifest(folder).digest == digest
    assert wire.bytes_sent < 1_200_000  # the optimizer's 3 MB stayed where they were
    wire.reset()
    assert fetch("s3://models/loras/folder", scratch, allowed=allowed(wire.url)) == folder
    assert wire.bytes_sent < OVERHEAD


def test_an_archive_is_fetched_from_s3(s3: S3Server, adapter: Path, tmp_path: Path, scratch: Path) -> None:
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        tar.add(adapter, "support")
    s3.put("loras/x.tar.gz", (tmp_path / "x.tar.gz").read_bytes())
    folder = fetch("s3://models/loras/x.tar.gz", scratch, allowed=allowed(s3.url))
    assert read_manifest(folder) == read_manifest(adapter)
    assert part_bytes(scratch) == 0


def test_the_checkpoints_of_a_run_on_s3_are_told_apart(s3: S3Server, adapter: Path, scratch: Path) -> None:
    s3.put_folder("loras/run/checkpoint-9", adapter)
    folder = fetch("s3://models/loras/run", scratch, allowed=allowed(s3.url))
    assert folder.name == "checkpoint-9"
    s3.put_folder("loras/run/checkpoint-10", adapter)
    with pytest.raises(
        SourceAmbiguous, match=r"`checkpoint-9`, `checkpoint-10`.*`s3://models/loras/run/checkpoint-10`"
    ):
        fetch("s3://models/loras/run", scratch, allowed=allowed(s3.url))


def test_only_what_is_under_the_allow_list_is_asked_for(s3: S3Server, wire: Wire, adapter: Path, scratch: Path) -> None:
    s3.put_folder("loras-evil/x", adapter)
    with pytest.raises(SourceNotAllowed, match=r"adapters\.sources"):
        fetch("s3://models/loras-evil/x", scratch, allowed=allowed(wire.url))
    assert wire.bytes_sent == 0


def test_another_digest_is_a_mismatch(s3: S3Server, adapter: Path, scratch: Path) -> None:
    s3.put_folder("loras/other", adapter)
    with pytest.raises(DigestMismatch, match=read_manifest(adapter).digest):
        fetch("s3://models/loras/other", scratch, allowed=allowed(s3.url), expected_digest="ab" * 32)
    assert whole_folders(scratch) == []


@pytest.mark.parametrize("name", ["nothing-here", "nothing.tar.gz"])
def test_what_is_not_on_s3_is_not_found(name: str, s3: S3Server, scratch: Path) -> None:
    with pytest.raises(SourceNotFound, match=name):
        fetch(f"s3://models/loras/{name}", scratch, allowed=allowed(s3.url))


def test_too_large_a_source_is_refused_before_it_is_read(
    s3: S3Server, wire: Wire, adapter: Path, scratch: Path
) -> None:
    s3.put_folder("loras/large", adapter)
    limits = FetchLimits(download_bytes=1_000_000)
    with pytest.raises(SourceTooLarge, match="the limit is 1,000,000"):
        fetch("s3://models/loras/large", scratch, allowed=allowed(wire.url), limits=limits)
    assert wire.bytes_sent < OVERHEAD


def test_a_broken_download_goes_on_where_it_stopped(s3: S3Server, wire: Wire, adapter: Path, scratch: Path) -> None:
    s3.put_folder("loras/broken", adapter)
    wire.cut_after(700 * KIB)
    with pytest.raises(SourceUnavailable, match="fetch it again to go on"):
        fetch("s3://models/loras/broken", scratch, allowed=allowed(wire.url), limits=ONE_TRY)
    assert whole_folders(scratch) == []
    have = part_bytes(scratch)
    size = sum(path.stat().st_size for path in adapter.iterdir())
    assert 500 * KIB < have < 700 * KIB

    wire.reset()
    told: list[int] = []
    folder = fetch(
        "s3://models/loras/broken",
        scratch,
        allowed=allowed(wire.url),
        limits=LIMITS,
        progress=lambda done, total: told.append(done),
    )
    assert read_manifest(folder) == read_manifest(adapter)
    assert size - have <= wire.bytes_sent < size - have + OVERHEAD
    config_size = (adapter / "adapter_config.json").stat().st_size
    assert min(first for first, _ in wire.ranges) == have - config_size
    assert have in told
    assert part_bytes(scratch) == 0


def test_cut_connections_are_tried_again_within_one_fetch(
    s3: S3Server, wire: Wire, adapter: Path, scratch: Path
) -> None:
    s3.put_folder("loras/flaky", adapter)
    wire.cut_each_after(200 * KIB)
    folder = fetch("s3://models/loras/flaky", scratch, allowed=allowed(wire.url), limits=LIMITS)
    assert read_manifest(folder) == read_manifest(adapter)
    assert wire.bytes_sent < 2 * 1024 * KIB


def test_an_object_that_changed_between_two_tries_is_read_from_its_beginning(
    s3: S3Server, wire: Wire, adapter: Path, tmp_path: Path, scratch: Path
) -> None:
    s3.put_folder("loras/replaced", adapter)
    wire.cut_after(700 * KIB)
    with pytest.raises(SourceUnavailable):
        fetch("s3://models/loras/replaced", scratch, allowed=allowed(wire.url), limits=ONE_TRY)
    other = write_adapter(tmp_path / "other", tensors=large_tensors(2))
    s3.put_folder("loras/replaced", other)
    wire.reset()
    folder = fetch("s3://models/loras/replaced", scratch, allowed=allowed(wire.url), limits=LIMITS)
    assert read_manifest(folder) == read_manifest(other)
    assert min(first for first, _ in wire.ranges) == 0
    assert part_bytes(scratch) == 0


def test_an_object_that_changes_while_it_is_read_is_never_mixed(
    s3: S3Server, adapter: Path, tmp_path: Path, scratch: Path
) -> None:
    s3.put_folder("loras/moving", adapter)
    other = write_adapter(tmp_path / "other", tensors=large_tensors(2))
    is_replaced = False

    def replace(done: int, total: int | None) -> None:
        nonlocal is_replaced
        if done > 500 * KIB and not is_replaced:
            is_replaced = True
            s3.put_folder("loras/moving", other)

    folder = fetch("s3://models/loras/moving", scratch, allowed=allowed(s3.url), limits=LIMITS, progress=replace)
    assert is_replaced
    assert read_manifest(folder) == read_manifest(other)


def test_a_killed_process_leaves_nothing_that_looks_whole_and_the_next_goes_on(
    s3: S3Server, wire: Wire, adapter: Path, scratch: Path
) -> None:
    s3.put_folder("loras/killed", adapter)
    code = f"""
import time
from pathlib import Path
from adapters.sources import fetch
from tests.support.s3 import LIMITS, allowed

def stall(done, total):
    if done > 500 * 1024:
        print("half", flush=True)
        time.sleep(600)

fetch("s3://models/loras/killed", Path({str(scratch)!r}), allowed=allowed({wire.url!r}), limits=LIMITS, progress=stall)
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert child.stdout is not None
    assert child.stdout.readline() == b"half\n"
    child.kill()
    child.wait()
    child.stdout.close()
    assert whole_folders(scratch) == []
    have = part_bytes(scratch)
    assert have > 500 * KIB

    wire.reset()
    folder = fetch("s3://models/loras/killed", scratch, allowed=allowed(wire.url), limits=LIMITS)
    assert read_manifest(folder) == read_manifest(adapter)
    size = sum(path.stat().st_size for path in adapter.iterdir())
    assert wire.bytes_sent < size - have + OVERHEAD
    assert whole_folders(scratch) == [folder]


def test_a_server_that_is_not_there_is_given_up_after_the_tries_allowed(s3: S3Server, scratch: Path) -> None:
    with Wire(s3.port) as gone:
        url = gone.url
    with pytest.raises(SourceUnavailable, match=r"does not answer.*given up after 3 tries"):
        fetch(
            "s3://models/loras/x", scratch, allowed=allowed(url), limits=FetchLimits(attempts=3, backoff_seconds=0.05)
        )


def test_missing_credentials_are_told_without_a_retry(
    s3: S3Server, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    options = {"s3": {"endpoint_url": s3.url, "client_kwargs": {"region_name": "us-east-2"}}}
    with pytest.raises(SourceUnavailable, match=r"access denied.*AWS_ACCESS_KEY_ID"):
        fetch(
            "s3://models/loras/x",
            scratch,
            allowed=Allowed(prefixes=("s3://models",), storage_options=options),
            limits=FetchLimits(attempts=100, backoff_seconds=60),
        )


@pytest.fixture(params=["", '"v1"'], ids=["no-etag", "etag"])
def pages(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A plain HTTP server of `tmp_path`, which knows no ranges, and tells an ETag or not."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            if not self.path.startswith("/moved"):
                super().do_GET() if self.command == "GET" else super().do_HEAD()
                return
            self.send_response(302)
            self.send_header("Location", self.path.replace("moved", "support"))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def end_headers(self) -> None:
            if request.param:
                self.send_header("ETag", request.param)
            super().end_headers()

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:  # of connections that are cut
            pass

    with Server(("127.0.0.1", 0), functools.partial(Quiet, directory=os.fspath(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_folder_and_an_archive_are_fetched_over_http(
    pages: str, adapter: Path, tmp_path: Path, scratch: Path
) -> None:
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        tar.add(adapter, ".")
    rules = Allowed(prefixes=(pages,))
    for name in ("support", "x.tar.gz"):
        folder = fetch(f"{pages}/{name}", scratch, allowed=rules, limits=LIMITS)
        assert read_manifest(folder) == read_manifest(adapter)
    with pytest.raises(SourceNotFound, match="nowhere"):
        fetch(f"{pages}/nowhere", scratch, allowed=rules, limits=LIMITS)


def test_a_web_server_cannot_lead_past_the_allow_list(pages: str, adapter: Path, scratch: Path) -> None:
    with pytest.raises(SourceNotAllowed, match="redirects elsewhere"):
        fetch(f"{pages}/moved", scratch, allowed=Allowed(prefixes=(f"{pages}/moved",)), limits=LIMITS)
    followed = {"http": {"allow_redirects": True}}
    rules = Allowed(prefixes=(f"{pages}/moved",), storage_options=followed)
    assert read_manifest(fetch(f"{pages}/moved", scratch, allowed=rules, limits=LIMITS)) == read_manifest(adapter)


def test_a_cut_download_from_a_server_without_ranges_begins_again(
    pages: str, adapter: Path, scratch: Path, request: pytest.FixtureRequest
) -> None:
    with Wire(int(pages.rpartition(":")[2])) as wire:
        rules = Allowed(prefixes=(wire.url,))
        wire.cut_after(700 * KIB)
        with pytest.raises(SourceUnavailable, match="given up after 2 tries"):
            fetch(
                f"{wire.url}/support",
                scratch,
                allowed=rules,
                limits=FetchLimits(chunk_bytes=64 * KIB, attempts=2, backoff_seconds=0.01),
            )
        assert part_bytes(scratch) > 0
        wire.reset()
        folder = fetch(f"{wire.url}/support", scratch, allowed=rules, limits=LIMITS)
        assert read_manifest(folder) == read_manifest(adapter)
        # Without an ETag a part cannot be trusted, and the rest is not even asked for.
        has_etag = "no-etag" not in request.node.name
        assert [first > 0 for first, _ in wire.ranges] == [True] * has_etag

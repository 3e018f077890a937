"""Who vouches for an adapter: keys, signatures, and what a changed byte does to them."""

import base64
import json
import stat
from pathlib import Path

import pytest

from adapters.artifact import read_manifest
from adapters.verify import EngineLimits, InvalidKey, Report, verify
from adapters.verify.signature import key_id, make_key, sign, trust_of
from tests.support.adapter_folders import fitting_tensors, write_adapter


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter", tensors=fitting_tensors())


def new_key(folder: Path, name: str) -> tuple[Path, Path]:
    """Return the files of a private key and of its public one."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    public.write_text(f"# of {name}\n{make_key(private)} {name}\n")
    return private, public


def signed(folder: Path, key: Path) -> str:
    return sign(folder, read_manifest(folder).digest, key)


def report(folder: Path, *public: Path, is_required: bool = True) -> Report:
    trust = trust_of(public, is_required=is_required)
    return verify(folder, base=None, limits=EngineLimits(), trust=trust)


def errors(folder: Path, *public: Path) -> list[str]:
    return [problem.code for problem in report(folder, *public).errors]


def test_a_signed_adapter_is_accepted_and_its_signer_named(folder: Path, tmp_path: Path) -> None:
    private, public = new_key(tmp_path, "ours")
    signer = signed(folder, private)
    found = report(folder, new_key(tmp_path, "other")[1], public)
    assert (found.is_accepted, found.signed_by) == (True, signer)
    assert signer == key_id(base64.b64decode(public.read_text().splitlines()[1].split()[0]))
    assert stat.S_IMODE(private.stat().st_mode) == 0o600


def test_an_unsigned_adapter_is_refused_only_where_it_must_be_signed(folder: Path, tmp_path: Path) -> None:
    public = new_key(tmp_path, "ours")[1]
    assert errors(folder, public) == ["signature_missing"]
    found = report(folder, public, is_required=False)
    assert (found.is_accepted, found.signed_by) == (True, "")


def test_a_strangers_signature_is_told_and_refused_where_it_must_be_ours(folder: Path, tmp_path: Path) -> None:
    signed(folder, new_key(tmp_path, "stranger")[0])
    public = new_key(tmp_path, "ours")[1]
    assert errors(folder, public) == ["signature_untrusted"]
    found = report(folder, public, is_required=False)
    assert found.is_accepted
    assert "signature_untrusted" in [problem.code for problem in found.warnings]


def test_a_change_after_signing_is_found(folder: Path, tmp_path: Path) -> None:
    private, public = new_key(tmp_path, "ours")
    signed(folder, private)
    write_adapter(folder, tensors=fitting_tensors(2))
    assert errors(folder, public) == ["signature_invalid"]
    assert report(folder, public, is_required=False).is_accepted is False, "a wrong signature is worse than none"
    assert report(folder, public).signed_by == ""


def test_saving_again_in_another_form_keeps_the_signature(folder: Path, tmp_path: Path) -> None:
    private, public = new_key(tmp_path, "ours")
    signed(folder, private)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "peft_version": "1.0"}, indent=3))
    assert report(folder, public).is_accepted


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key_id": 1}', '{"key_id": "a", "signature": "?"}', " " * 70_000])
def test_a_file_that_is_no_signature_is_refused(folder: Path, tmp_path: Path, text: str) -> None:
    (folder / "adapter.sig").write_text(text)
    assert errors(folder, new_key(tmp_path, "ours")[1]) == ["signature_invalid"]


def test_a_signature_of_another_length_is_invalid(folder: Path, tmp_path: Path) -> None:
    private, public = new_key(tmp_path, "ours")
    signer = signed(folder, private)
    (folder / "adapter.sig").write_text(json.dumps({"key_id": signer, "signature": "AAAA"}))
    assert errors(folder, public) == ["signature_invalid"]


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    private = new_key(tmp_path, "ours")[0]
    before = private.read_bytes()
    with pytest.raises(FileExistsError):
        make_key(private)
    assert private.read_bytes() == before


def test_public_keys_may_be_pem_too(folder: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    private, line = new_key(tmp_path, "ours")
    signed(folder, private)
    public = load_pem_private_key(private.read_bytes(), None).public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "ours.pub.pem").write_bytes(pem * 2)
    assert report(folder, tmp_path / "ours.pub.pem").is_accepted
    assert trust_of([tmp_path / "ours.pub.pem"]) == trust_of([line])


@pytest.mark.parametrize(
    "content", [b"", b"# nothing\n", b"AAAA\n", b"not base64!\n", b"\xff\xfe", b"-----BEGIN X-----"]
)
def test_what_is_no_public_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(InvalidKey, match="key"):
        trust_of([tmp_path / "key"])


def test_a_private_key_is_no_public_one_and_the_reverse(folder: Path, tmp_path: Path) -> None:
    private, public = new_key(tmp_path, "ours")
    with pytest.raises(InvalidKey):
        trust_of([private])
    with pytest.raises(InvalidKey):
        sign(folder, "ab" * 32, public)

"""Signatures of adapters: an ed25519 signature over the digest, in a file beside the adapter.

`adapter.sig` is JSON: {"key_id": …, "signature": base64}. What is signed is the 64 hex digits of the digest, so any
tool with ed25519 can check it. A key's id is the first 16 hex digits of the SHA-256 of its 32 public bytes. This is the
only module that imports `cryptography`.
"""

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adapters import strict_json
from adapters.artifact import MAX_SIGNATURE_BYTES, SIGNATURE_FILE
from adapters.problem import Problem, Severity, render

_PUBLIC_BYTES: Final = 32
_SIGN: Final = "sign the folder: loragate adapters sign PATH --key FILE"


class InvalidKey(ValueError):
    """A file does not hold a key of the required kind; the message names the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """The trusted public keys (32 raw bytes by id), and whether a signature by one of them is required."""

    keys: Mapping[str, bytes]
    is_required: bool = False


def key_id(public: bytes) -> str:
    """Return the id of a public key's 32 raw bytes."""
    return hashlib.sha256(public).hexdigest()[:16]


def trust_of(files: Iterable[Path], *, is_required: bool = False) -> Trust:
    """Return trust in the public keys in `files`, given as PEM or as lines of base64.

    Raises:
        InvalidKey: A file cannot be read, or holds something else.
    """
    found = [public for path in files for public in _public_keys(path)]
    return Trust(keys={key_id(public): public for public in found}, is_required=is_required)


def _public_keys(path: Path) -> list[bytes]:
    try:
        text = path.read_bytes()[:MAX_SIGNATURE_BYTES].decode()
    except (OSError, UnicodeDecodeError):
        raise InvalidKey(f"`{path}` cannot be read as a text with public keys") from None
    if "-----BEGIN" in text:
        return [_from_pem(path, part) for part in text.split("-----BEGIN")[1:]]
    lines = [line.split("#")[0].split() for line in text.splitlines()]
    keys = [_from_base64(path, words[0]) for words in lines if words]
    if not keys:
        raise InvalidKey(f"`{path}` holds no public key; give PEM, or a line of base64 for each")
    return keys


def _from_base64(path: Path, word: str) -> bytes:
    try:
        public = base64.b64decode(word, validate=True)
    except (binascii.Error, ValueError):
        public = b""
    if len(public) != _PUBLIC_BYTES:
        raise InvalidKey(f"`{path}`: `{render(word)}` is no ed25519 public key; give PEM, or base64 of 32 bytes")
    return public


def _from_pem(path: Path, part: str) -> bytes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(f"-----BEGIN{part}".encode())
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidKey(f"`{path}` is no PEM of a public key (a private one is not needed here)") from None
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidKey(f"`{path}` is a key of another kind; an ed25519 public key is needed")
    return key.public_bytes_raw()


def make_key(path: Path) -> str:
    """Write a new private key to `path`, readable by its owner only; return the public key in base64.

    Raises:
        FileExistsError: There is something at `path`; a key is never overwritten.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def sign(folder: Path, digest: str, key_file: Path) -> str:
    """Write the signature over `digest` beside the adapter in `folder`; return the key's id.

    Raises:
        InvalidKey: `key_file` is not an ed25519 private key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(key_file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        raise InvalidKey(f"`{key_file}` is no private key; make one: loragate adapters keygen FILE") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidKey(f"`{key_file}` is a key of another kind; an ed25519 private key is needed")
    signer = key_id(key.public_key().public_bytes_raw())
    signature = base64.b64encode(key.sign(digest.encode())).decode()
    scratch = folder / f".{SIGNATURE_FILE}.new"
    scratch.write_text(json.dumps({"key_id": signer, "signature": signature}, indent=2) + "\n")
    scratch.replace(folder / SIGNATURE_FILE)
    return signer


def signer_of(folder: Path, digest: str, trust: Trust) -> str:
    """Return the id of the trusted key that signed `digest`; empty if none did."""
    path = folder / SIGNATURE_FILE
    signer, signature = _read(path) if path.is_file() else ("", b"")
    return signer if signer in trust.keys and _is_signed(trust.keys[signer], digest, signature) else ""


def signature_problems(folder: Path, digest: str, trust: Trust) -> Iterator[Problem]:
    """Yield the reasons why no trusted key's signature covers `digest`."""
    path = folder / SIGNATURE_FILE
    if not path.is_file():
        if trust.is_required:
            yield _problem("signature_missing", "the adapter is not signed", None, _SIGN)
        return
    signer, signature = _read(path)
    if not signer:
        yield _problem("signature_invalid", "the file is no signature", None, _SIGN)
    elif signer not in trust.keys:
        severity = Severity.ERROR if trust.is_required else Severity.WARNING
        remedy = "trust the key with --trusted-key, or have a trusted one sign"
        yield _problem("signature_untrusted", "the key is not trusted", signer, remedy, severity)
    elif not _is_signed(trust.keys[signer], digest, signature):
        message = "the signature is not one over this content: it was changed after it was signed"
        yield _problem("signature_invalid", message, signer, f"get the adapter again, or {_SIGN}")


def _read(path: Path) -> tuple[str, bytes]:
    with path.open("rb") as file:
        data = file.read(MAX_SIGNATURE_BYTES + 1)
    try:
        value = strict_json.parse(data[:MAX_SIGNATURE_BYTES])  # a longer file is cut, which makes it invalid JSON
        return str(value["key_id"]), base64.b64decode(value["signature"], validate=True)
    except (ValueError, TypeError, KeyError):
        return "", b""


def _is_signed(public: bytes, digest: str, signature: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, digest.encode())
    except InvalidSignature:
        return False
    return True


def _problem(code: str, message: str, value: str | None, remedy: str, severity: Severity = Severity.ERROR) -> Problem:
    return Problem(
        code=code,
        message=message,
        value=render(value) if value else None,
        limit="a trusted signature",
        remedy=remedy,
        severity=severity,
        where=SIGNATURE_FILE,
    )

"""Engines' URLs, and what a key, a path prefix and a name make of a request's head."""

from pathlib import Path

import pytest

from gateway.engine_address import PLAIN_HEAD, Access, Address, InvalidAddress, engine_url
from gateway.settings import InvalidSettings, load

REQUEST = b"POST /v1/completions" + PLAIN_HEAD + b"content-length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://10.0.0.7:8000/", "http://10.0.0.7:8000"),
        ("https://gpu.example", "https://gpu.example"),
        ("http://h:1/vllm/a/", "http://h:1/vllm/a"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("unix:///run/engine.sock", "unix:///run/engine.sock"),
    ],
)
def test_an_engine_has_one_url(given: str, url: str) -> None:
    assert engine_url(given) == url


@pytest.mark.parametrize(
    "given",
    [
        "",
        "h:8000",
        "ftp://h",
        "http://",
        "http://h:0",
        "http://h:99999",
        "http://h:x",
        "http://h/?a",
        "http://h/#a",
        "http://h/a b",
        "http://h/a\r\nx-evil: 1",
        "http://h/%zz\n",
        "unix://h/s",
        "http://[::1",
        "http://ä.example",
        "http://h/v1",
        "https://h/prefix/v1/",
    ],
)
def test_what_is_no_engine_is_refused(given: str) -> None:
    with pytest.raises(InvalidAddress):
        engine_url(given)


@pytest.mark.parametrize("given", ["http://geheim@h:1", "http://user:geheim@h:1", "https://user:geheim@h/a?b"])
def test_a_password_in_a_url_is_refused_and_never_shown(given: str) -> None:
    with pytest.raises(InvalidAddress) as caught:
        engine_url(given)
    assert "geheim" not in str(caught.value)
    assert "engine_key_env" in str(caught.value)
    with pytest.raises(InvalidSettings) as refused:
        load(given={"engines": (given,)})
    assert "geheim" not in str(refused.value)


@pytest.mark.parametrize("url", ["http://10.0.0.7:8000", "http://[::1]:8000", "http://localhost:1", "unix:///a/b"])
def test_the_usual_engine_gets_requests_as_they_are(url: str) -> None:
    assert Address(url).is_plain


def test_a_key_a_prefix_and_a_name_are_in_the_head_and_nowhere_else() -> None:
    tail = b"content-length: 2\r\n\r\n{}"
    named = Address("http://gpu.example:8000")
    assert named.address_request(REQUEST) == b"POST /v1/completions HTTP/1.1\r\nhost: gpu.example:8000\r\n" + tail
    full = Address("https://gpu.example/vllm/a", Access(key="sk-1"))
    assert full.address_request(REQUEST) == (
        b"POST /vllm/a/v1/completions HTTP/1.1\r\nhost: gpu.example\r\nauthorization: Bearer sk-1\r\n" + tail
    )
    assert (full.host, full.port, full.is_tls) == ("gpu.example", 443, True)
    unix = Address("unix:///run/engine.sock", Access(key="sk-1"))
    assert unix.address_request(REQUEST).startswith(
        b"POST /v1/completions HTTP/1.1\r\nhost: engine\r\nauthorization: Bearer sk-1\r\n"
    )
    body = b"POST /v1/completions" + PLAIN_HEAD + b"\r\nGET /" + PLAIN_HEAD
    assert named.address_request(body).endswith(b"\r\nGET /" + PLAIN_HEAD)  # a body that looks like a head


def test_keys_come_from_the_environment_by_name_and_each_problem_is_told_without_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LORAGATE_THE_KEY", "sk-all")  # called like a setting, which it is not
    monkeypatch.setenv("ANOTHER_KEY", "sk-one")
    given = {
        "engines": ("http://h:1", "http://h:2"),
        "engine_key_env": "LORAGATE_THE_KEY",
        "engine_keys": {"http://h:2/": "ANOTHER_KEY"},
    }
    settings = load(given=given)
    assert settings.access("http://h:1").key == "sk-all"
    assert settings.access("http://h:2").key == "sk-one"
    assert "sk-" not in settings.model_dump_json()
    monkeypatch.setenv("ANOTHER_KEY", "geheim\r\nx-evil: 1")
    monkeypatch.delenv("LORAGATE_THE_KEY")
    with pytest.raises(InvalidSettings) as caught:
        load(given=given)
    assert len(caught.value.problems) == 2
    assert "geheim" not in str(caught.value)
    (tmp_path / "ca.pem").write_text("no certificate")
    for path in ("ca.pem", "absent.pem"):
        with pytest.raises(InvalidSettings, match="engine_ca"):
            load(given={"engine_ca": str(tmp_path / path)})

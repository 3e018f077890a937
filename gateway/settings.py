"""Settings from defaults, a file, the environment and the command line; a later source overrides an earlier one.

This module is the only reader of the environment. Everything is validated here, all problems are reported at once, and
an unknown name is a problem.
"""

import dataclasses
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from gateway.decide.engine_fields import FieldPolicy
from gateway.engine_address import Access, engine_url, is_key, tls_context, without_password
from gateway.mirror.bounds import Bounds
from gateway.real_path import real_path
from gateway.receive.limits import Limits
from gateway.yaml_text import InvalidYaml, parse

PREFIX: Final = "LORAGATE_"
# Variables with our prefix that are no settings: read by the command line, by tests, inside vLLM.
_NOT_SETTINGS: Final = frozenset(
    ("LORAGATE_KEY", "LORAGATE_CONTROL", "LORAGATE_CPU_LORA_CURE", "LORAGATE_CPU_FORK", "LORAGATE_TEST_WITHOUT_NODE")
)
# Variables that Kubernetes sets in every pod for a Service named `loragate`; its LORAGATE_PORT looks like a setting.
_KUBERNETES: Final = re.compile(r"LORAGATE_(\w+_)?(SERVICE_(HOST|PORT)|PORT_\d)\w*=.*|LORAGATE_(\w+_)?PORT=tcp://.*")
# Settings that consist of several.
_GROUPS: Final = ("limits", "engine_fields", "engine", "adapters", "mirror", "evaluator")
_LISTS: Final = ("engines", "allowed_origins", "host_names", "args", "sources", "trusted_keys", "judge_keys")


class InvalidSettings(Exception):
    """One or more settings are wrong; `problems` names each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _check_origin(origin: str) -> str:
    """Refuse what no browser sends as `Origin` (RFC 6454), and `null`, which any page can send from a sandbox."""
    if origin == "*":
        return origin
    found = re.fullmatch(r"([a-z][a-z0-9+.-]*)://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(\d{1,5}))?", origin)
    if found is None or (found[1], found[2]) in (("http", "80"), ("https", "443")):
        raise ValueError(
            f"`{origin[:100]}` is no origin: write https://HOST or https://HOST:PORT as browsers send it, in lower "
            "case, without a path and without the scheme's own port; or * for any page"
        )
    return origin


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EngineSettings(_Strict):
    """The engine that `loragate up` starts and watches; with `serve`, how the engines elsewhere were started.

    The defaults suit a small model on a laptop; `args` are passed to vLLM unchanged.
    """

    base: Path | None = Field(
        None, description="Folder of the base model: `up` serves it (without: the demo's), both verify against it"
    )
    served_name: str | None = Field(
        None,
        min_length=1,
        description="Name that clients send for the base; not given: for `up` the folder's, for `serve` what most "
        "engines say (--base-name)",
    )
    dtype: str = Field("auto", description="vLLM --dtype")
    max_model_len: int | None = Field(None, ge=1, description="vLLM --max-model-len, in tokens")
    max_num_seqs: int = Field(16, ge=1, description="vLLM --max-num-seqs: requests in one batch")
    max_loras: int = Field(4, ge=1, description="vLLM --max-loras: adapters in one batch")
    max_cpu_loras: int = Field(16, ge=1, description="vLLM --max-cpu-loras: adapters kept warm")
    max_lora_rank: int = Field(16, ge=1, description="vLLM --max-lora-rank")
    kv_cache_gib: float = Field(1.0, gt=0, description="KV cache on a CPU, in GiB (VLLM_CPU_KVCACHE_SPACE)")
    start_seconds: float = Field(600.0, gt=0, description="How long the engine may take until it is ready")
    args: tuple[str, ...] = Field((), description="More arguments for vLLM")


class AdapterSettings(_Strict):
    """Where adapters may come from, what they must be, and how they are kept."""

    sources: tuple[str, ...] = Field(
        (), description="Folders and URLs that adapters may come from; this machine's own user may use any folder"
    )
    storage_options: dict[str, dict[str, Any]] = Field(
        {}, description="Options of object stores by protocol, as fsspec takes them; no credentials"
    )
    require_signed: bool = Field(False, description="Refuse versions that no trusted key has signed")
    trusted_keys: tuple[Path, ...] = Field((), description="Files with ed25519 public keys")
    registry: Path | None = Field(
        None, description="Folder of the registry's copies, which engines read; one for all gateways that share a store"
    )
    max_bytes: int = Field(8 * 1024**3, ge=1, description="Largest adapter, in bytes")
    copies: int | None = Field(None, ge=1, description="Engines that each version is kept on; all if not given")
    rollback_days: float = Field(30.0, ge=0, description="How long a former control is kept for a rollback")
    fingerprints: bool = Field(True, description="Check what engines serve by fixed probes")
    probe_seconds: float = Field(60.0, gt=0, description="How often versions in service are checked")


class EvaluatorSettings(_Strict):
    """Bounds of what evaluators ask of engines and judges; for one evaluator each, unless a setting says otherwise."""

    enabled: bool = Field(True, description="Run an evaluator beside the gateway while a route mirrors")
    requests_per_engine: int = Field(2, ge=1, description="Shadow requests that an engine gets at once")
    tokens_per_second: int | None = Field(
        2000, ge=1, description="Tokens a second that shadow requests may cost an engine in the long run"
    )
    kv_cache_share: float = Field(
        0.9, gt=0, le=1, description="Engines whose KV cache is fuller get no shadow requests"
    )
    most_running: int | None = Field(
        None, ge=0, description="Engines that run more requests than this, evaluators' aside, get no shadow requests"
    )
    idle_wait_seconds: float = Field(
        2.0, ge=0, description="How long a shadow request waits for a moment in which the engine runs nothing else"
    )
    priority: int = Field(
        1_000_000, ge=0, description="Of shadow requests in vLLM's queue; the lower goes first, 0 is usual"
    )
    replay_seconds: float = Field(120.0, gt=0, description="Longest shadow reply; what came until then is kept")
    reply_bytes: int = Field(4 * 1024**2, ge=1, description="Largest shadow reply; what came until then is kept")
    top_logprobs: int = Field(20, ge=0, description="Likeliest tokens told at each position, for drift")
    score_at_once: int = Field(
        1,
        ge=1,
        description="Requests for prompt log-probabilities that an engine gets at once; 1 is over all evaluators",
    )
    score_both_answers: bool = Field(
        False, description="Measure drift on both answers of a pair; else on one of them, drawn by a coin"
    )
    score_tokens: int = Field(8192, ge=2, description="Longest prompt with reply whose drift is measured")
    score_seconds: float = Field(60.0, gt=0, description="How long an engine may take to tell log-probabilities")
    lease_seconds: float = Field(60.0, ge=1, description="After so long without a word, another evaluator takes over")
    give_up_seconds: float = Field(
        900.0, gt=0, description="A sample that could not be replayed for so long is dropped"
    )
    drain_seconds: float = Field(10.0, ge=0, description="How long running comparisons may go on after a stop")
    judge_seconds: float = Field(60.0, gt=0, description="How long a judge may take for one question")
    judge_keys: tuple[str, ...] = Field(
        ("OPENAI_API_KEY", "JUDGE_API_KEY"),
        description="Environment variables that a route's judge may name for its key",
    )


class Settings(_Strict):
    """Everything that can be set."""

    host: str = Field("127.0.0.1", description="Address of the app port")
    port: int = Field(8080, ge=0, le=65535, description="App port; 0 picks a free one")
    control_host: str = Field("127.0.0.1", description="Address of the control port")
    control_port: int = Field(8081, ge=0, le=65535, description="Control port; 0 picks a free one")
    workers: int = Field(1, ge=1, le=256, description="Gateway worker processes")
    state: Path = Field(Path("~/.local/state/loragate"), description="Folder for keys, catalog and adapters")
    store: str | None = Field(
        None,
        description="Database for many gateways, postgresql://USER@HOST/NAME; SQLite in the state folder if not given",
    )
    cache: Path = Field(Path("~/.cache/loragate"), description="Folder for the demo's model and adapters")
    auth: bool = Field(True, description="Ask for keys; without, only on loopback")
    host_names: tuple[str, ...] = Field(
        (), description="More names, as in Host, that a gateway without keys answers to"
    )
    engines: tuple[Annotated[str, AfterValidator(engine_url)], ...] = Field((), description="Engines elsewhere")
    allowed_origins: tuple[Annotated[str, AfterValidator(_check_origin)], ...] = Field(
        (), description="Web pages that may call from a browser, by origin: https://HOST[:PORT], or * for any; CORS"
    )
    engine_key_env: str | None = Field(None, description="Environment variable with the engines' vLLM --api-key")
    engine_keys: dict[Annotated[str, AfterValidator(engine_url)], str] = Field(
        {}, description="Environment variables with the keys of some engines, by URL; before engine_key_env"
    )
    engine_ca: Path | None = Field(
        None, description="Certificates that those of https:// engines are checked by, PEM; the system's if not given"
    )
    connect_seconds: float = Field(5.0, gt=0, description="How long a connection to an engine may take")
    lame_duck_seconds: float = Field(
        5.0,
        ge=0,
        description="How long a gateway that was sent SIGTERM serves on, `/readyz` being 503, before it drains; "
        "SIGINT or a second signal ends it",
    )
    drain_seconds: float = Field(30.0, gt=0, description="How long running replies may go on after a stop")
    tls_certificate: Path | None = Field(None, description="Certificate chain for the app port, PEM")
    tls_key: Path | None = Field(None, description="Its private key, PEM")
    limits: Limits = Field(Limits(), description="Bounds of one connection and one request")
    engine_fields: FieldPolicy = Field(FieldPolicy(), description="Fields that callers may send to engines")
    engine: EngineSettings = Field(EngineSettings.model_construct(), description="The engine that `up` starts")
    adapters: AdapterSettings = Field(AdapterSettings.model_construct(), description="Adapters and their checks")
    mirror: Bounds = Field(Bounds(), description="Bounds of what is copied for evaluators, and of feedback")
    evaluator: EvaluatorSettings = Field(EvaluatorSettings.model_construct(), description="Evaluators")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="What is logged")

    @model_validator(mode="after")
    def _no_auth_only_on_loopback(self) -> "Settings":
        for name, host in (("host", self.host), ("control_host", self.control_host)):
            if not self.auth and not is_loopback(host):
                raise ValueError(
                    f"auth: without keys the gateway serves on loopback only, and {name} is `{host}`; "
                    "use 127.0.0.1, or make keys with `loragate keys create`"
                )
        return self

    @model_validator(mode="after")
    def _not_every_page_without_keys(self) -> "Settings":
        if not self.auth and "*" in self.allowed_origins:
            raise ValueError(
                "allowed_origins: without keys `*` would let every web page that is open on this machine use the "
                "gateway; name the pages' origins"
            )
        return self

    @model_validator(mode="after")
    def _require_shared_registry(self) -> "Settings":
        if self.store is not None and not self.store.startswith("sqlite") and self.adapters.registry is None:
            raise ValueError(
                "adapters.registry: gateways that share a store need one folder for adapters, which all of them and "
                "their engines see under the same path; give it"
            )
        return self

    @model_validator(mode="after")
    def _tls_is_whole(self) -> "Settings":
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key: give both, or neither")
        for path in (self.tls_certificate, self.tls_key):
            if path is not None and not path.is_file():
                raise ValueError(f"tls: `{path}` is not a file")
        if self.tls_certificate is not None:
            _check_pair(self.tls_certificate, self.tls_key)
        return self

    @model_validator(mode="after")
    def _certificates_can_be_read(self) -> "Settings":
        if self.engine_ca is not None:
            try:
                tls_context(str(self.engine_ca.expanduser()))
            except OSError as error:  # ssl.SSLError is one
                raise ValueError(f"engine_ca: `{self.engine_ca}` holds no certificates in PEM ({error})") from None
        return self

    def access(self, engine: str) -> Access:
        """Return the key and certificates for the engine with this URL. The result is secret: never log or show it."""
        name = self.engine_keys.get(engine, self.engine_key_env)
        ca = str(self.engine_ca.expanduser()) if self.engine_ca is not None else ""
        return Access(key=secret(name) or "" if name else "", ca=ca)

    def state_folder(self) -> Path:
        """Return the state folder, `~` resolved."""
        return real_path(self.state)

    def registry_folder(self) -> Path:
        """Return the folder of the registry's copies."""
        given = self.adapters.registry
        return self.state_folder() / "adapters" if given is None else real_path(given)

    def cache_folder(self) -> Path:
        """Return the cache folder, `~` resolved."""
        return real_path(self.cache)


def _check_pair(certificate: Path, key: Path | None) -> None:
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ValueError(
            f"tls: `{certificate}` and `{key}` are no certificate and its unlocked key ({error})"
        ) from None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def load(file: Path | None = None, given: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings from the file, the environment and the command line (`given`).

    Raises:
        InvalidSettings: Lists every problem with the setting's name, its value, and what is allowed.
    """
    values: dict[str, Any] = _from_file(file) if file is not None else {}
    found, problems = _from_environment(os.environ)
    _merge(values, found)
    _merge(values, {key: value for key, value in (given or {}).items() if value is not None})
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        problems += [without_password(_problem(each)) for each in error.errors()]
    else:
        names = {settings.engine_key_env, *settings.engine_keys.values()} - {None}
        problems = [each for each in problems if each.partition(":")[0] not in names]  # such a variable holds a key
        problems += [problem for name in sorted(map(str, names)) if (problem := _problem_of_key(name))]
    if problems:
        raise InvalidSettings(problems)
    return settings


def describe_settings() -> list[tuple[str, str, object]]:
    """Return (name, meaning, default) of every setting; settings in a group are named `group.setting`."""
    rows: list[tuple[str, str, object]] = []
    for name, field in Settings.model_fields.items():
        group = field.annotation
        if isinstance(group, type) and dataclasses.is_dataclass(group):
            default = field.default
            rows += [(f"{name}.{each.name}", "", getattr(default, each.name)) for each in dataclasses.fields(group)]
        elif isinstance(group, type) and issubclass(group, _Strict):
            rows += [
                (f"{name}.{part}", each.description or "", each.default) for part, each in group.model_fields.items()
            ]
        else:
            rows.append((name, field.description or "", field.default))
    return rows


def child_environment() -> dict[str, str]:
    """Return the environment for a child process."""
    return dict(os.environ)


def secret(name: str) -> str | None:
    """Return the value of an environment variable that a setting or a route names; None if it is not set."""
    return os.environ.get(name)


def _problem_of_key(name: str) -> str:
    """Return what is wrong with the engine key in a variable, without showing the key; empty if nothing is."""
    key = secret(name)
    if not key:
        return f"engine_key_env: the environment variable `{name}` is not set"
    if not is_key(key):
        return f"engine_key_env: what the environment variable `{name}` holds is no key: it has spaces or other signs"
    return ""


def _from_file(file: Path) -> dict[str, Any]:
    try:
        values = parse(file.read_text())
    except OSError as error:
        raise InvalidSettings([f"{file}: cannot be read ({error.strerror})"]) from None
    except (InvalidYaml, UnicodeDecodeError) as error:
        raise InvalidSettings([f"{file}: is not valid YAML ({error})"]) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InvalidSettings([f"{file}: holds {type(values).__name__}, not names and values"])
    return values


def _from_environment(environment: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Read variables such as `LORAGATE_PORT=9000` and `LORAGATE_LIMITS__MAX_BODY_BYTES=1000`; lists have commas.

    Returns:
        The values, and a problem for each variable with our prefix that is no setting.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in sorted(environment.items()):
        if not name.startswith(PREFIX) or name in _NOT_SETTINGS or _KUBERNETES.fullmatch(f"{name}={value}"):
            continue
        first, *rest = name[len(PREFIX) :].lower().split("__")
        if first not in Settings.model_fields:
            problems.append(f"{name}: is not a setting; `loragate check --help` lists them")
        elif (first in _GROUPS) != (len(rest) == 1):
            problems.append(f"{name}: only {', '.join(_GROUPS)} have parts, as in {PREFIX}LIMITS__IDLE_SECONDS")
        else:
            target = values.setdefault(first, {}) if rest else values
            last = rest[0] if rest else first
            target[last] = value.split(",") if last in _LISTS else value
    return values, problems


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _problem(error: Any) -> str:
    where = ".".join(map(str, error["loc"]))
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{where}: is not a setting; `loragate check --help` lists them"
    if not where:
        return str(message)
    return f"{where}: {message[0].lower()}{message[1:]}, got `{error['input']}`"

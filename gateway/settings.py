"""Settings: defaults, then a file, then the environment, then the command line.

The only reader of the environment. Everything is validated here, all problems are
reported at once, and an unknown name is a problem.
"""

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from gateway.receive.limits import Limits

PREFIX: Final = "LORAGATE_"


class InvalidSettings(Exception):
    """One or more settings are wrong; `problems` names each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _check_engine_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
        return url
    if parts.scheme == "http" and parts.hostname and parts.path in ("", "/") and not parts.query:
        return url.rstrip("/")
    raise ValueError(f"`{url}` is no engine: write http://HOST:PORT or unix:///PATH/TO/SOCKET")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EngineSettings(_Strict):
    """The engine that `loragate up` starts and watches.

    Sizes are those that serve a small model on a laptop; `args` is passed to vLLM as it is.
    """

    base: Path | None = Field(None, description="Folder of the base model; the demo's model if not given")
    served_name: str | None = Field(
        None, description="Name that clients send for the base; the folder's name if not given"
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


class Settings(_Strict):
    """Everything that can be set."""

    host: str = Field("127.0.0.1", description="Address of the app port")
    port: int = Field(8080, ge=0, le=65535, description="App port; 0 picks a free one")
    control_host: str = Field("127.0.0.1", description="Address of the control port")
    control_port: int = Field(8081, ge=0, le=65535, description="Control port; 0 picks a free one")
    workers: int = Field(1, ge=1, le=256, description="Gateway worker processes")
    state: Path = Field(Path("~/.local/state/loragate"), description="Folder for keys, catalog and adapters")
    cache: Path = Field(Path("~/.cache/loragate"), description="Folder for the demo's model and adapters")
    auth: bool = Field(True, description="Ask for keys; without, only on loopback")
    engines: tuple[Annotated[str, AfterValidator(_check_engine_url)], ...] = Field(
        (), description="Engines that run elsewhere"
    )
    connect_seconds: float = Field(5.0, gt=0, description="How long a connection to an engine may take")
    drain_seconds: float = Field(30.0, gt=0, description="How long running replies may go on after a stop")
    tls_certificate: Path | None = Field(None, description="Certificate chain for the app port, PEM")
    tls_key: Path | None = Field(None, description="Its private key, PEM")
    limits: Limits = Field(Limits(), description="Bounds of one connection and one request")
    engine: EngineSettings = Field(EngineSettings.model_construct(), description="The engine that `up` starts")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="What is logged")

    @model_validator(mode="after")
    def _no_auth_only_on_loopback(self) -> "Settings":
        if not self.auth and not is_loopback(self.host):
            raise ValueError(
                f"auth: without keys the gateway serves on loopback only, and host is `{self.host}`; "
                "use 127.0.0.1, or make keys with `loragate keys create`"
            )
        return self

    @model_validator(mode="after")
    def _tls_is_whole(self) -> "Settings":
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key: give both, or neither")
        for path in (self.tls_certificate, self.tls_key):
            if path is not None and not path.is_file():
                raise ValueError(f"tls: `{path}` is not a file")
        return self

    def state_folder(self) -> Path:
        """Return the state folder, `~` resolved."""
        return self.state.expanduser().resolve()

    def cache_folder(self) -> Path:
        """Return the cache folder, `~` resolved."""
        return self.cache.expanduser().resolve()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def load(file: Path | None = None, given: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings from the file, the environment and what was `given` on the command line.

    Raises:
        InvalidSettings: Every problem, each with its name, value and what is allowed.
    """
    values: dict[str, Any] = _from_file(file) if file is not None else {}
    _merge(values, _from_environment(os.environ))
    _merge(values, {key: value for key, value in (given or {}).items() if value is not None})
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise InvalidSettings([_problem(each) for each in error.errors()]) from None


def from_environment(name: str) -> str | None:
    """Return one environment variable of ours, by its name after `LORAGATE_`."""
    return os.environ.get(PREFIX + name) or None


def child_environment() -> dict[str, str]:
    """Return the environment for a process that we start."""
    return dict(os.environ)


def _from_file(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text())
    except OSError as error:
        raise InvalidSettings([f"{file}: cannot be read ({error.strerror})"]) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidSettings([f"{file}: is not valid YAML ({' '.join(str(error).split())})"]) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InvalidSettings([f"{file}: holds {type(values).__name__}, not names and values"])
    return values


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """`LORAGATE_PORT=9000`, `LORAGATE_LIMITS__MAX_BODY_BYTES=1000`, lists with commas."""
    values: dict[str, Any] = {}
    known = set(Settings.model_fields)
    for name, value in environment.items():
        if not name.startswith(PREFIX):
            continue
        path = name[len(PREFIX) :].lower().split("__")
        if path[0] not in known:
            continue  # read elsewhere (LORAGATE_KEY), or another program's
        target = values
        for step in path[:-1]:
            target = target.setdefault(step, {})
        target[path[-1]] = value.split(",") if path[-1] in ("engines", "args") else value
    return values


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

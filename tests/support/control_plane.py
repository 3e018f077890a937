"""The admin API in this process."""

from types import SimpleNamespace
from typing import Any, cast

from fastapi import FastAPI

from gateway.admin.api import Probes, build_admin
from gateway.admin.operations import Operations


def control_plane(socket_path: str = "/nowhere") -> FastAPI:
    """The application, to look at; nothing stands behind it."""
    state: Any = SimpleNamespace(store=None, now=lambda: 0.0, desired=SimpleNamespace(keys=()))
    operations = Operations(state, *[cast(Any, None)] * 3)
    return build_admin(operations, cast(Probes, None), socket_path=socket_path, with_keys=True)


def operations() -> list[str]:
    """Method and path of every operation, the documentation's included."""
    app = control_plane()
    routed = {f"{method} {route.path}" for route in app.routes for method in route.methods or ()}  # type: ignore[attr-defined]
    described = {f"{method.upper()} {path}" for path, item in app.openapi()["paths"].items() for method in item}
    return sorted(routed | described)

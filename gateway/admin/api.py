"""Build the application of the control port: the admin API, probes and metrics.

`guard.py` authorizes each request before anything else; `idempotent.py` recognizes repeated requests;
the handlers that turn errors into replies are registered here, in one place.
"""

from typing import Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from gateway.admin.adapters.api import add_adapters
from gateway.admin.failures import STATUS, refusal
from gateway.admin.guard import OPEN_PATHS, Guard
from gateway.admin.idempotent import Idempotent
from gateway.admin.keys.api import add_keys
from gateway.admin.openapi import TITLE, VERSION, describe
from gateway.admin.operations import Operations
from gateway.admin.rollouts.api import add_rollouts
from gateway.admin.rollouts.journal_api import add_journal
from gateway.admin.rollouts.simulate_api import add_simulation
from gateway.admin.routes.api import add_routes
from gateway.admin.shadow.api import add_shadow
from gateway.admin.shadow.memory_queue_api import MemoryQueue, add_memory_queue
from gateway.admin.status_api import Probes, add_probes
from gateway.errors import LoragateError
from gateway.store.idempotency import IdempotencyKeys

__all__ = ["OPEN_PATHS", "Probes", "build_admin"]

# Exceptions that become replies. `Exception` is last: an unforeseen error is a 500 in the same shape, without its text.
_TOLD: Final = (*STATUS, LoragateError, HTTPException, RequestValidationError, Exception)


def build_admin(
    operations: Operations,
    probes: Probes,
    *,
    socket_path: str,
    with_keys: bool,
    memory_queue: MemoryQueue | None = None,
) -> FastAPI:
    """Return the control plane's application.

    Args:
        operations: The operations behind the admin API.
        probes: The answers to probes, scrapes and the status.
        socket_path: Path of the unix socket, whose users are admins.
        with_keys: False when the gateway runs without authentication, on loopback.
        memory_queue: The queue of samples in memory, which the evaluator on this machine reads over the unix socket.
    """
    app = FastAPI(
        title=TITLE,
        version=VERSION,
        docs_url="/admin/docs",
        openapi_url="/admin/openapi.json",
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        generate_unique_id_function=_operation_id,
        redirect_slashes=False,
    )
    for kind in _TOLD:
        app.add_exception_handler(kind, _tell)
    # The middleware that is added last runs first.
    app.add_middleware(Idempotent, keys=lambda: IdempotencyKeys(operations.state.store))
    app.add_middleware(
        Guard,
        routes=app.routes,
        keys=lambda: operations.state.desired.keys,
        now=operations.state.now,
        socket_path=socket_path,
        with_keys=with_keys,
    )
    add_probes(app, probes)
    add_adapters(app, operations)
    add_routes(app, operations)
    add_rollouts(app, operations)
    add_simulation(app, operations)
    add_journal(app, operations)
    add_shadow(app, operations)
    add_keys(app, operations)
    if memory_queue is not None:
        add_memory_queue(app, memory_queue)
    describe(app)
    return app


async def _tell(_: Request, error: Exception) -> Response:
    return refusal(error)


def _operation_id(route: APIRoute) -> str:
    """Return the function's name, after which generated clients name their methods."""
    return route.name

"""The modules that a gateway imports while it starts: imported once, by the process that gateways are forked from."""

import gc
import sys
from importlib import import_module

sys.dont_write_bytecode = False  # or each session would compile everything again

for module in (
    "gateway.admin.api",
    "gateway.cli.keys",
    "gateway.cli.run",
    "gateway.node",
    "sqlalchemy.dialects.sqlite",
    "tests.support.forked_command",
    "uvicorn",
    "uvicorn.lifespan.on",
    "uvicorn.protocols.http.h11_impl",
    "uvloop",
):
    import_module(module)

# The collector of a forked process would write to each object, and so copy every page of memory that is shared.
gc.collect()
gc.freeze()

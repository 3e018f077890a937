"""The process that a session's other processes are forked from, and what it has imported."""

import multiprocessing

processes = multiprocessing.get_context("forkserver")
_preloaded: list[str] = []


def preload(*modules: str) -> None:
    """Have forked processes begin with these modules imported, if none has been forked yet."""
    _preloaded.extend(module for module in modules if module not in _preloaded)
    processes.set_forkserver_preload(_preloaded)

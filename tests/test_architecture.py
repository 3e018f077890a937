"""The layout holds: who may import whom, what pure files must not know, how long things may be."""

import ast
import functools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import adapters
import evaluators
import gateway

ROOT = Path(__file__).parents[1]
PACKAGES = ("loragate", "gateway", "adapters", "evaluators")

# Pure by place: no I/O, no clock, no chance, in these folders and in whatever of ours they import.
PURE = (
    "evaluators",
    "gateway/decide",
    "gateway/openai",
    "gateway/records",
    "gateway/rollout",
    "gateway/errors.py",
    "gateway/pipeline.py",
    "gateway/ports.py",
)
IMPURE_LIBRARIES = {"time", "random", "os", "io", "socket", "asyncio", "threading", "logging", "secrets", "subprocess"}

# The rooms of a request never import each other: they meet in app.py (the data plane) and node.py (the machine)
# through ports. What acts on nothing, all the way down, may be read from anywhere.
ROOMS = ("receive", "serve", "store", "admin", "observe", "workers", "mirror", "evaluate")
MEETING_PLACES = ("gateway/app.py", "gateway/node.py", "gateway/settings.py", "gateway/cli", "gateway/demo")
# What a room may take from another beyond pure files, each with its reason.
ALLOWED = {
    # The control plane works on the desired state, which is the store's.
    ("admin", "store"),
    # Messages to workers carry limits and cells.
    ("workers", "receive"),
    ("workers", "observe"),
    # Samples are the store's between the two, and judged pairs are read from there.
    ("evaluate", "store"),
    ("mirror", "store"),
}

# One home for each library.
HOMES = {
    "fastapi": ("gateway/admin",),
    "starlette": ("gateway/admin",),
    "pydantic": ("gateway/settings.py", "gateway/admin"),
    "yaml": ("gateway/yaml_text.py", "gateway/cli/routes_file.py"),
    "httptools": ("gateway/serve/connection.py", "gateway/receive/protocol.py", "gateway/receive/upgrade.py"),
    "httpx": ("gateway/cli/client.py", "gateway/demo", "gateway/evaluate"),
    "prometheus_client": ("gateway/observe",),
    "uvicorn": ("gateway/workers", "gateway/node.py"),
    "click": ("gateway/cli", "gateway/demo"),
    "rich": ("gateway/cli", "gateway/demo"),
    "vllm": ("gateway/serve/vllm_cpu",),
    "fsspec": ("adapters/sources",),
    "cryptography": ("adapters/verify/signature.py",),
    "peft": ("adapters/fusion",),
    "sqlalchemy": ("gateway/store",),
    "alembic": ("gateway/store",),
    "psycopg": ("gateway/store",),
    "re2": ("gateway/mirror/patterns.py", "adapters/fusion/source.py"),
    "rapidfuzz": ("evaluators/compare",),
    "sacrebleu": ("evaluators/compare",),
    "py3langid": ("evaluators/compare",),
    "jsonschema": ("evaluators/compare",),
    "onnxruntime": ("evaluators/compare",),
    "matplotlib": ("gateway/plots",),
    "jinja2": ("gateway/pages",),
}
# Heavy: only inside functions, so that serving starts at once and without them.
HEAVY = {"torch", "peft", "transformers", "vllm", "gguf", "safetensors", "numpy", "sacrebleu", "py3langid"}
HEAVY |= {"onnxruntime", "tokenizers", "matplotlib", "jsonschema"}
HEAVY_BY_NATURE = "gateway/serve/vllm_cpu/adapter_wise.py"  # loaded by vLLM alone

MODULE_LINES = 400
FUNCTION_LINES = 60


@functools.cache
def modules() -> tuple[tuple[str, ast.Module], ...]:
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return tuple((path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())) for path in paths)


@functools.cache
def nodes(tree: ast.AST) -> tuple[ast.AST, ...]:
    """All nodes of a tree, for the many tests that look at each."""
    return tuple(ast.walk(tree))


@functools.cache
def imports(tree: ast.AST) -> tuple[str, ...]:
    """Every module that is imported, wherever in the file."""
    return tuple(_imports(tree))


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@functools.cache
def libraries(tree: ast.AST) -> frozenset[str]:
    return frozenset(name.split(".")[0] for name in imports(tree))


def is_in(path: str, places: tuple[str, ...]) -> bool:
    return any(path == place or path.startswith(place.rstrip("/") + "/") for place in places)


@functools.cache
def file_of(module: str) -> str | None:
    for name in (module, module.rpartition(".")[0]):
        stem = ROOT / name.replace(".", "/")
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if path.is_file():
                return path.relative_to(ROOT).as_posix()
    return None


@functools.cache
def ways_to_act() -> dict[str, str]:
    """Files that do more than compute, each with the import that makes it so: a library, or another such file."""
    trees = dict(modules())
    found = {}
    for path, tree in trees.items():
        names = [name for name in imports(tree) if name.split(".")[0] in IMPURE_LIBRARIES or name == "datetime.now"]
        if names:
            found[path] = names[0]
    read_from = {
        path: {other for name in imports(tree) if (other := file_of(name)) in trees and name not in type_only(tree)}
        for path, tree in trees.items()
    }
    while more := {
        path: next(iter(sorted(others & found.keys())))
        for path, others in read_from.items()
        if path not in found and others & found.keys()
    }:
        found |= more
    return found


def room_of(path: str) -> str | None:
    parts = path.split("/")
    return parts[1] if parts[0] == "gateway" and len(parts) > 2 and parts[1] in ROOMS else None


@functools.cache
def type_only(tree: ast.Module) -> frozenset[str]:
    """What is imported under TYPE_CHECKING alone."""
    return frozenset(
        name
        for node in nodes(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for name in imports(node)
    )


def test_adapters_knows_nothing_of_the_gateway() -> None:
    offenders = [
        (path, name)
        for path, tree in modules()
        if path.startswith("adapters/")
        for name in imports(tree)
        if name.split(".")[0] == "gateway"
    ]
    assert offenders == []


def test_evaluators_know_neither_the_gateway_nor_adapters() -> None:
    offenders = [
        (path, name)
        for path, tree in modules()
        if path.startswith("evaluators/")
        for name in imports(tree)
        if name.split(".")[0] in ("gateway", "adapters")
    ]
    assert offenders == []


def test_the_package_called_adapters_is_ours() -> None:
    assert Path(adapters.__file__).is_relative_to(ROOT)
    assert Path(gateway.__file__).is_relative_to(ROOT)
    assert Path(evaluators.__file__).is_relative_to(ROOT)


def test_pure_folders_import_nothing_that_acts() -> None:
    assert {path: way for path, way in ways_to_act().items() if is_in(path, PURE)} == {}


def test_coverage_is_measured_of_what_is_pure() -> None:
    measured = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["coverage"]["run"]["source_pkgs"]
    assert set(measured) == {place.removesuffix(".py").replace("/", ".") for place in PURE}


def test_decisions_import_the_standard_library_and_pure_files_only() -> None:
    allowed = (
        "gateway/decide",
        "gateway/errors.py",
        "adapters/reference.py",
        "adapters/manifest.py",
        "adapters/catalog.py",
        # What gates of compared pairs are called, and what is allowed where a plan says nothing.
        "evaluators/judge/criteria.py",
        "evaluators/compare/comparator.py",
        # What both arms' units say is weighed by the same bets as what pairs say.
        "evaluators/statistics",
    )
    offenders = [
        (path, name)
        for path, tree in modules()
        if is_in(path, ("gateway/decide",))
        for name in imports(tree)
        if (found := file_of(name)) is not None and not is_in(found, allowed)
    ]
    assert offenders == []


def test_rooms_meet_only_where_they_are_put_together() -> None:
    offenders = []
    for path, tree in modules():
        room = room_of(path)
        if room is None or is_in(path, MEETING_PLACES):
            continue
        for name in imports(tree):
            found = file_of(name)
            other = room_of(found) if found else None
            if other is None or other == room or found not in ways_to_act() or found == f"gateway/{other}/__init__.py":
                continue
            if (room, other) in ALLOWED or (path == "gateway/workers/worker.py" and other == "receive"):
                continue
            if name not in type_only(tree):
                offenders.append((path, name))
    assert offenders == []


def test_nothing_but_the_command_line_and_the_composition_import_what_puts_together() -> None:
    top = ("gateway/app.py", "gateway/node.py")
    users = ("gateway/cli", "gateway/workers/worker.py", "gateway/node_views.py", *top)  # the views: for its type
    offenders = [
        (path, name)
        for path, tree in modules()
        for name in imports(tree)
        if (file_of(name) in top) and not is_in(path, users)
    ]
    assert offenders == []


@pytest.mark.parametrize("library", HOMES)
def test_each_library_has_one_home(library: str) -> None:
    offenders = [path for path, tree in modules() if library in libraries(tree) and not is_in(path, HOMES[library])]
    assert offenders == []


def test_heavy_libraries_are_imported_inside_functions() -> None:
    offenders = []
    for path, tree in modules():
        if path == HEAVY_BY_NATURE or path.startswith(
            "evaluators/statistics/"
        ):  # numbers are NumPy's; imported late itself
            continue
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                offenders += [(path, name) for name in imports(ast.Module([node], [])) if name.split(".")[0] in HEAVY]
    assert offenders == []


def test_every_test_is_in_a_folder_that_one_of_the_commands_runs() -> None:
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if "node_modules" not in path.parts]
    folders = {path.parent.relative_to(ROOT / "tests").as_posix() for path in files if path != Path(__file__)}
    assert folders == {"flow", "properties", "real", "unit"}
    # `make flow` collects only its own folder, so a test elsewhere that is not marked would never be run.
    slow = [path for path in files if path.parent.name == "real"]
    assert [
        path.name for path in slow if not re.search(r"^pytestmark = .*mark\.real\b", path.read_text(), re.MULTILINE)
    ] == []


def test_modules_and_functions_stay_short() -> None:
    long: list[tuple[str, int]] = []
    for path, tree in modules():
        lines = len((ROOT / path).read_text().splitlines())
        if lines > MODULE_LINES:
            long.append((path, lines))
        for node in nodes(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                length = node.end_lineno - node.lineno + 1
                if length > FUNCTION_LINES:
                    long.append((f"{path}:{node.name}", length))
    assert long == []


def test_no_catch_all_modules() -> None:
    bad = {"utils.py", "common.py", "helpers.py", "base.py", "manager.py"}
    assert [path for path, _ in modules() if path.rpartition("/")[2] in bad] == []


def test_a_public_class_name_means_one_thing() -> None:
    places: dict[str, list[str]] = {}
    for path, tree in modules():
        for node in nodes(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(path)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_modules_and_what_they_offer_say_what_they_do() -> None:
    """Modules, public classes and functions, methods of ports; elsewhere a docstring is for what a name omits."""
    silent = []
    for path, tree in modules():
        if ast.get_docstring(tree) is None:
            silent.append(path)
        silent += [f"{path}:{node.name}" for node in _offered(tree) if ast.get_docstring(node) is None]
    assert silent == []


def _offered(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        yield node
        is_port = isinstance(node, ast.ClassDef) and any(
            ast.unparse(base).startswith("Protocol") for base in node.bases
        )
        for each in node.body if is_port else ():
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and not each.name.startswith("on_"):
                yield each  # a call-back is named for its event


def test_the_glossary_names_types_that_are_there() -> None:
    named = set(
        re.findall(r"`((?:gateway|adapters|evaluators)[\w.]*)\.([A-Z]\w+)`", (ROOT / "docs/glossary.md").read_text())
    )
    assert len(named) > 20
    trees = dict(modules())
    missing = {
        f"{module}.{name}"
        for module, name in named
        if name
        not in {node.name for node in trees[f"{module.replace('.', '/')}.py"].body if isinstance(node, ast.ClassDef)}
    }
    assert missing == set()

"""Which room may import which, and what users see: the promises of ARCHITECTURE.md that a machine can check."""

from __future__ import annotations

import ast
import inspect
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

import plait

ROOT = Path(__file__).resolve().parents[2]
CRATES = ROOT / "crates"
PACKAGE = ROOT / "python" / "plait"

# The crates of plait and those of them that each may depend on. A new crate needs a line here and in ARCHITECTURE.md.
ARROWS = {
    "plait-sys": set(),
    "plait-shm": {"plait-sys"},
    "plait-pool": {"plait-shm", "plait-sys"},
    "plait-reactor": {"plait-sys"},
    "plait-trace": set(),
    "plait-sim": set(),
    "plait-probe": {"plait-shm", "plait-sys", "plait-trace"},
    "plait-py": {"plait-pool", "plait-probe", "plait-reactor", "plait-shm", "plait-sim", "plait-sys", "plait-trace"},
}

# Foreign crates that have one home.
HOMES = {
    "libc": {"plait-sys"},
    "rustix": {"plait-sys"},
    "nix": {"plait-sys"},
    "memmap2": {"plait-sys"},
    "pyo3": {"plait-py"},
    "pyo3-ffi": {"plait-py"},
    "loom": {"plait-shm", "plait-pool", "plait-reactor"},
}

# The Python rooms that may open a door of the extension module. Between rooms, see [tool.importlinter] in pyproject.toml.
DOORS = {
    "_future",
    "_executor",
    "advice",
    "auto",
    "compare",
    "loop",
    "model",
    "observe",
    "processes",
    "shared",
    "sync",
    "threads",
}

PUBLIC = {
    "Barrier",
    "BoundedSemaphore",
    "BrokenBarrierError",
    "Channel",
    "ChannelEmpty",
    "ChannelFull",
    "ChannelShutDown",
    "Condition",
    "DeadlockError",
    "Event",
    "EventLoop",
    "Future",
    "LimitExceeded",
    "Limits",
    "Lock",
    "NotPicklable",
    "OwnerDied",
    "Pool",
    "ProcessPool",
    "Profile",
    "RLock",
    "Semaphore",
    "Shared",
    "TaskCancelled",
    "TaskTimeout",
    "ThreadPool",
    "Watch",
    "WorkerDied",
    "__version__",
    "advise",
    "aselect",
    "errors",
    "select",
    "install",
    "new_event_loop",
    "profile",
    "run",
    "share",
    "shared_array",
    "simulate",
    "watch",
    "watch_loop",
}


def manifests() -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted(CRATES.glob("*/Cargo.toml")):
        manifest = tomllib.loads(path.read_text())
        found[manifest["package"]["name"]] = manifest
    return found


def dependencies(manifest: dict[str, Any]) -> set[str]:
    """Everything the crate depends on, its tests and its build script too, on any target; by the crates' own names."""
    tables = [manifest, *manifest.get("target", {}).values()]
    return {
        (entry.get("package") if isinstance(entry, dict) else None) or name
        for table in tables
        for kind in ("dependencies", "dev-dependencies", "build-dependencies")
        for name, entry in table.get(kind, {}).items()
    }


@pytest.mark.parametrize("crate", sorted(manifests()))
def test_crates_depend_only_on_those_below(crate: str) -> None:
    assert crate in ARROWS, "a new crate needs a line in ARROWS"
    ours = {name for name in dependencies(manifests()[crate]) if name.startswith("plait")}
    assert ours <= ARROWS[crate]


@pytest.mark.parametrize("foreign", HOMES)
def test_foreign_crates_stay_at_home(foreign: str) -> None:
    users = {crate for crate, manifest in manifests().items() if foreign in dependencies(manifest)}
    assert users <= HOMES[foreign]


@pytest.mark.parametrize("crate", sorted(manifests()))
def test_crates_take_the_lints_of_the_workspace(crate: str) -> None:
    assert manifests()[crate].get("lints") == {"workspace": True}


def test_only_the_binding_names_python() -> None:
    guests = [
        path.relative_to(ROOT)
        for crate in ARROWS
        if crate != "plait-py"
        for path in (CRATES / crate).rglob("*.rs")
        if "pyo3" in path.read_text()
    ]
    assert not guests


@pytest.mark.parametrize("path", sorted(CRATES.rglob("*.rs")), ids=lambda path: str(path.relative_to(CRATES)))
def test_every_rust_file_says_what_it_is(path: Path) -> None:
    assert path.read_text().startswith(("//!", "#!/")), "begin with a `//!` comment"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_python_file_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports, wherever in it, as if all were absolute."""
    here = ["plait", *path.relative_to(PACKAGE).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_open_only_their_own_door(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    opened = {name for name in imports(path) if f"{name}.".startswith("plait._core.")}
    assert not opened or room in DOORS
    submodules = {name.split(".")[2] for name in opened if name.count(".") > 2}
    assert submodules <= {room.removeprefix("_")}


def test_public_names_are_exactly_these() -> None:
    assert set(plait.__all__) == PUBLIC
    assert len(plait.__all__) == len(PUBLIC), "a name is listed twice"
    assert PUBLIC.issubset(dir(plait))


def test_nothing_else_looks_public(run_script: Any) -> None:
    """After all names were used, so that what loading them leaves in the package is seen too."""
    source = """
import json, plait, types
for name in plait.__all__:
    getattr(plait, name)
seen = {name for name in dir(plait) if not name.startswith("_")}
rooms = {name for name in seen if isinstance(getattr(plait, name), types.ModuleType)}
print(json.dumps(sorted(seen - rooms)))
"""
    assert set(json.loads(run_script(source).stdout)) == PUBLIC - {"__version__", "errors"}


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()
    assert (PACKAGE / "_core.pyi").exists()


def test_the_version_is_that_of_cargo() -> None:
    workspace = tomllib.loads((ROOT / "Cargo.toml").read_text())
    assert plait.__version__ == workspace["workspace"]["package"]["version"]


@pytest.mark.parametrize("name", sorted(PUBLIC - {"__version__"}))
def test_every_public_object_is_documented(name: str) -> None:
    """The object itself and, of a class, the public attributes that it defines."""
    thing = getattr(plait, name)
    assert inspect.getdoc(thing)
    if not inspect.isclass(thing):
        return
    for key, value in vars(thing).items():
        is_code = callable(value) or inspect.isdatadescriptor(value) or isinstance(value, staticmethod | classmethod)
        if is_code and not key.startswith("_"):
            assert inspect.getdoc(getattr(thing, key)), f"{name}.{key}"


@pytest.mark.parametrize("name", sorted(PUBLIC - {"__version__", "errors"}))
def test_public_objects_call_themselves_by_their_public_name(name: str) -> None:
    """Tracebacks, pickles and documentation then name what users can import."""
    thing = getattr(plait, name)
    assert thing.__name__ == name
    assert thing.__module__.partition(".")[0] == "plait"


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_are_refused_in_plain_words(run_script: Any, platform: str) -> None:
    result = run_script(f"import sys; sys.platform = {platform!r}; import plait", check=False, way="-c")
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert "Linux" in last


def test_import_is_cheap(run_script: Any) -> None:
    source = "import sys, json; before = set(sys.modules); import plait; print(json.dumps(sorted(set(sys.modules) - before)))"
    loaded = set(json.loads(run_script(source, way="-c").stdout))
    dear = {"multiprocessing", "asyncio", "concurrent.futures.process", "subprocess", "socket", "numpy", "cloudpickle"}
    assert not loaded & dear


def test_channels_do_without_asyncio_until_they_need_it(run_script: Any) -> None:
    source = """
import sys, threading, plait
channel = plait.Channel(2)
threading.Thread(target=lambda: [channel.put(number) for number in range(5)]).start()
assert [channel.get(timeout=30) for _ in range(5)] == list(range(5))
print("asyncio" in sys.modules, "multiprocessing" in sys.modules)
"""
    assert run_script(source, way="-c").stdout == "False False\n"

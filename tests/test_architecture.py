"""Who imports whom, read from the sources and held against the picture below; a module it does not show fails, too.

An import counts wherever it stands, in a function as well; one under ``if TYPE_CHECKING`` is for the type checker only
and does not. Each rule has a mutant here that breaks it.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "lstmbridge"

#: A module imports only modules that stand above it.
PICTURE = """
    errors
    spec
    layer
    stored zipcopy mapped placing markup distributions
    arrays tensorfile npz wire
    sstable
    bundle
    grammar
    notation statenotation
    fit reference
    optimizers
    contract
    registry remainder
    named into choosing
    reading pairing
    editing difference pipeline drawing
    states
    handover
    checking summary training
    certificate
    initializers jobs testing plotting
    surgery
    cli
    __main__
"""
ROW = {name: number for number, line in enumerate(PICTURE.split("\n")) for name in line.split()}

#: What the rooms of a framework's folder see of the core: the last row each may import.
LAST_ROW = {"__init__": ROW["bundle"], "layout": ROW["optimizers"]}
LAST_ROW_OF_A_ROOM = ROW["contract"]

#: Rooms of a folder that say who a framework is and how it stores weights, without importing it.
DATA_ROOMS = ("__init__", "layout")


# ---- reading the imports


def imports(source: str, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Each imported module with its line; ``from a import b`` gives ``a.b``, relative imports are made absolute."""
    tree = ast.parse(source)
    guards = [node for node in ast.walk(tree) if isinstance(node, ast.If) and _name(node.test) == "TYPE_CHECKING"]
    hidden = {inner for guard in guards for statement in guard.body for inner in ast.walk(statement)}
    for node in ast.walk(tree):
        if node in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, module, is_package)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and _name(node.func) in ("import_module", "__import__"):
            yield from ((node.lineno, str(name.value)) for name in node.args[:1] if isinstance(name, ast.Constant))


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _absolute(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    kept = parts[: len(parts) - node.level + is_package]
    return ".".join([*kept, node.module] if node.module else kept)


# ---- the rules


def violations(root: Path) -> list[str]:
    """Every import in ``root/lstmbridge`` that the picture does not show: one line each, with file and line number."""
    frameworks = packages_of_frameworks(root)
    found = []
    for path in sorted((root / PACKAGE).rglob("*.py")):
        place = path.relative_to(root)
        parts = place.with_suffix("").parts
        module = ".".join(parts).removesuffix(".__init__")
        for line, target in imports(path.read_text(encoding="utf-8"), module, parts[-1] == "__init__"):
            reason = _reason(parts[1:], target, frameworks)
            if reason:
                found.append(f"{place.as_posix()}:{line}: {reason}")
        if not _known(parts[1:]):
            found.append(f"{place.as_posix()}: not in the picture")
    return found


def packages_of_frameworks(root: Path) -> Mapping[str, frozenset[str]]:
    """For each folder of frameworks/, the packages that are its own: its ROOTS, and what its EXTRA installs."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: {_package(line) for line in lines} for name, lines in project["optional-dependencies"].items()}
    own = {}
    for path in sorted((root / PACKAGE / "frameworks").glob("*/__init__.py")):
        told = {}
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and _name(node.targets[0]) in ("ROOTS", "EXTRA"):
                told[_name(node.targets[0])] = ast.literal_eval(node.value)
        roots = {each.partition(".")[0] for each in told["ROOTS"]} - {PACKAGE, "builtins"}
        own[path.parent.name] = frozenset(roots | extras.get(told["EXTRA"], set()))
    return own


def _package(requirement: str) -> str:
    return requirement.partition("[")[0].partition(">")[0].partition("=")[0].strip()


def _known(parts: tuple[str, ...]) -> bool:
    return parts[0] in ROW or parts[0] in ("__init__", "__main__", "frameworks")


def _reason(parts: tuple[str, ...], target: str, frameworks: Mapping[str, frozenset[str]]) -> str | None:
    """Why the module `parts` (within the package) may not import `target`; None if it may."""
    folder = parts[1] if parts[0] == "frameworks" and len(parts) > 2 else None
    package, _, inside = target.partition(".")
    if package != PACKAGE:
        return _foreign(parts, folder, package, frameworks)
    inner = inside.split(".")
    if inner == ["__version__"]:  # a fact, and no module
        return None
    if inner[0] == "frameworks":
        return _between_folders(parts, folder, inner)
    if parts[0] in ("__init__", "__main__"):
        return None
    last = LAST_ROW.get(parts[2], LAST_ROW_OF_A_ROOM) if folder else ROW.get(parts[0], 0)
    same = inner[0] == parts[0]
    if inner[0] not in ROW:  # a public name of the package itself, which is above the command only
        return None if parts[0] == "cli" else f"imports {target}, which is not in the picture"
    if not same and (ROW[inner[0]] > last or (not folder and ROW[inner[0]] == last)):
        return f"imports {PACKAGE}.{inner[0]}, which does not stand above it"
    return None


def _foreign(
    parts: tuple[str, ...], folder: str | None, package: str, frameworks: Mapping[str, frozenset[str]]
) -> str | None:
    owners = [name for name, packages in frameworks.items() if package in packages]
    if not owners:
        return None
    if folder is None:
        return f"imports {package}: the core names no framework"
    if folder not in owners:
        return f"imports {package}, which belongs to {' and '.join(owners)}"
    return f"imports {package}: {parts[2]} imports no framework" if parts[2] in DATA_ROOMS else None


def _between_folders(parts: tuple[str, ...], folder: str | None, inner: list[str]) -> str | None:
    if folder is None:
        allowed = parts == ("registry",) and inner == ["frameworks"]
        return None if allowed else f"imports {'.'.join(inner)}: the registry reaches frameworks by string"
    if inner[1:2] != [folder]:
        return f"imports {'.'.join(inner)}: no framework's folder imports another's"
    data = parts[2] in DATA_ROOMS and len(inner) > 2 and inner[2] in ("live", "files", "faithful")
    return f"imports {'.'.join(inner)}: {parts[2]} imports no framework" if data else None


# ---- the tests


def test_the_sources_import_what_the_picture_shows() -> None:
    assert violations(ROOT) == []


def test_the_picture_shows_only_what_is_there() -> None:
    planned = {"initializers", "jobs", "testing"}
    there = {path.stem for path in (ROOT / PACKAGE).iterdir()}
    assert set(ROW) - planned <= there


GOOD = {
    "pyproject.toml": '[project.optional-dependencies]\nspade = ["spade>=1", "shovel[all]>=2"]\n',
    "lstmbridge/__init__.py": "from lstmbridge.pipeline import convert\n",
    "lstmbridge/errors.py": "import json\n",
    "lstmbridge/spec.py": "from lstmbridge.errors import SpecError\n",
    "lstmbridge/layer.py": "import typing\nif typing.TYPE_CHECKING:\n    from lstmbridge.fit import Fitted\n",
    "lstmbridge/fit.py": "from lstmbridge import __version__, errors, layer\n",
    "lstmbridge/registry.py": "from lstmbridge import frameworks\n",
    "lstmbridge/pipeline.py": "from lstmbridge import registry\n",
    "lstmbridge/cli/__init__.py": "from lstmbridge.cli.convert import command\n",
    "lstmbridge/cli/convert.py": "from lstmbridge import __version__, pipeline\n",
    "lstmbridge/frameworks/__init__.py": "",
    "lstmbridge/frameworks/spade/__init__.py": 'ROOTS = ("spade",)\nEXTRA = "spade"\n',
    "lstmbridge/frameworks/spade/layout.py": "from lstmbridge.fit import Holds\n",
    "lstmbridge/frameworks/spade/live.py": "import shovel\nimport spade.nn\nfrom . import layout\n",
    "lstmbridge/frameworks/heart/__init__.py": 'ROOTS = ("heart",)\nEXTRA = ""\n',
}

MUTANTS = {
    "spec.py": [
        ("from lstmbridge.layer import Layer", "lstmbridge.layer, which does not stand above it"),
        ("from lstmbridge import layer", "lstmbridge.layer, which does not stand above it"),
        ("from . import layer", "lstmbridge.layer, which does not stand above it"),
        ("def late():\n    import lstmbridge.fit", "lstmbridge.fit, which does not stand above it"),
        ("import lstmbridge.fortune", "not in the picture"),
        ("from lstmbridge import convert", "not in the picture"),
        ("import lstmbridge", "not in the picture"),
        ("import spade", "the core names no framework"),
        ("import shovel.tools", "the core names no framework"),
        ('import importlib\nimportlib.import_module("spade")', "the core names no framework"),
    ],
    "fit.py": [("from lstmbridge import reference", "lstmbridge.reference, which does not stand above it")],
    "fortune.py": [("", "not in the picture")],
    "pipeline.py": [
        ("from lstmbridge.frameworks.spade import live", "the registry reaches frameworks by string"),
        ("from lstmbridge import cli", "lstmbridge.cli, which does not stand above it"),
    ],
    "registry.py": [("from lstmbridge.frameworks import spade", "the registry reaches frameworks by string")],
    "cli/convert.py": [("import heart", "the core names no framework")],
    "frameworks/spade/__init__.py": [("import spade", "__init__ imports no framework")],
    "frameworks/spade/layout.py": [
        ("import spade", "layout imports no framework"),
        ("from .live import read", "layout imports no framework"),
        ("from lstmbridge import contract", "lstmbridge.contract, which does not stand above it"),
    ],
    "frameworks/spade/live.py": [
        ("import heart", "belongs to heart"),
        ("from lstmbridge.frameworks.heart import layout", "no framework's folder imports another's"),
        ("from ..heart import layout", "no framework's folder imports another's"),
        ("from lstmbridge import pipeline", "lstmbridge.pipeline, which does not stand above it"),
    ],
}


def plant(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_a_good_tree_is_not_accused(tmp_path: Path) -> None:
    plant(tmp_path, GOOD)
    assert violations(tmp_path) == []


@pytest.mark.parametrize(("name", "line", "words"), [(n, *mutant) for n, each in MUTANTS.items() for mutant in each])
def test_a_bad_import_is_found(tmp_path: Path, name: str, line: str, words: str) -> None:
    place = f"{PACKAGE}/{name}"
    plant(tmp_path, {**GOOD, place: f"{GOOD.get(place, '')}{line}\n"})
    [found] = violations(tmp_path)
    assert found.startswith(place)
    assert words in found

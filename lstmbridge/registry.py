"""From a name, an object or a file to its framework, without importing any framework to find out.

The frameworks here are the folders of ``lstmbridge.frameworks``; a third party's is named by an entry point of the
group ``lstmbridge.frameworks`` whose value is the package that has the same rooms.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from lstmbridge import frameworks
from lstmbridge.contract import FilesRoom, LayoutRoom, LiveRoom, TrainingRoom
from lstmbridge.errors import FileError, MissingFramework, UnknownName, Unsupported, unknown

__all__ = ["Framework", "claimed", "for_target", "framework", "names", "of_file", "of_object"]

ENTRY_POINTS = "lstmbridge.frameworks"


@dataclass(frozen=True)
class Framework:
    """One framework's folder: who it is, and its rooms, opened when they are needed.

    suffixes  of the files that it reads; those of `writes` it writes, too
    default_suffixes  those that mean it where nothing else is said
    tells_order  whether its models say which layer reads whose outputs (`Layer.after`)
    options  those fields of `WriteOptions` that are for this framework alone
    companions  the names of the files that are read along with one; `beginning(text)` gives all names that begin so
    """

    name: str
    package: str
    roots: tuple[str, ...]
    suffixes: tuple[str, ...]
    writes: tuple[str, ...]
    default_suffixes: tuple[str, ...]
    extra: str
    options: tuple[str, ...] = ()
    tells_order: bool = False
    claims: Callable[[Path], bool] | None = None
    companions: Callable[[str, Callable[[str], list[str]]], list[str]] | None = None

    @property
    def layout(self) -> LayoutRoom:
        """Its layouts and what it holds; imports no framework."""
        return cast(LayoutRoom, self._room("layout"))

    @property
    def live(self) -> LiveRoom:
        """Its objects. Errors: MissingFramework with the extra to install."""
        return cast(LiveRoom, self._room("live"))

    @property
    def files(self) -> FilesRoom:
        """Its files. Errors: Unsupported if it has none; MissingFramework if the format needs the framework."""
        return cast(FilesRoom, self._room("files"))

    @property
    def training(self) -> TrainingRoom:
        """Its optimizers. Errors: Unsupported if it has none here; MissingFramework with the extra to install."""
        return cast(TrainingRoom, self._room("training"))

    def has(self, room: str) -> bool:
        """Whether the folder has that room; nothing is imported but the folder itself."""
        return _has(f"{self.package}.{room}")

    def _room(self, room: str) -> ModuleType:
        if not self.has(room):
            what = {"files": "files of its own", "live": "objects that can be converted", "training": "optimizers"}
            raise Unsupported(f"{self.name} has no {what.get(room, room)} here", *_WAYS.get(room, ()))
        try:
            return importlib.import_module(f"{self.package}.{room}")
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing == "lstmbridge":
                raise
            raise MissingFramework(
                f"{self.name} needs the package {missing!r}, which is not installed",
                f"pip install 'lstmbridge[{self.extra}]'",
            ) from error


_WAYS = dict.fromkeys(("files", "live"), ("its weights can be given as named arrays",))


@cache
def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


@cache
def _packages() -> Mapping[str, str]:
    return {m.name: f"{frameworks.__name__}.{m.name}" for m in pkgutil.iter_modules(frameworks.__path__) if m.ispkg}


@cache
def _third_parties() -> Mapping[str, str]:
    import importlib.metadata  # 20 ms that only a look-up needs

    return {point.name: point.value for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}


def names() -> tuple[str, ...]:
    """The names of every framework there is, third parties' included."""
    return tuple(sorted({*_packages(), *_third_parties()}))


#: What a folder may say of itself beside, with what holds where it does not; in the order of Framework's fields.
_OPTIONAL: Mapping[str, Any] = {"OPTIONS": (), "TELLS_ORDER": False, "claims": None, "companions": None}


@cache
def framework(name: str) -> Framework:
    """The framework of that name. Errors: UnknownName, with the near name."""
    package = _packages().get(name) or _third_parties().get(name)  # the second only if it is none of ours
    if package is None:
        raise unknown("framework", name, names())
    module = importlib.import_module(package)
    default = getattr(module, "DEFAULT_SUFFIXES", module.SUFFIXES)
    writes = getattr(module, "WRITES", module.SUFFIXES)
    more = [getattr(module, name, usual) for name, usual in _OPTIONAL.items()]
    return Framework(module.NAME, package, module.ROOTS, module.SUFFIXES, writes, default, module.EXTRA, *more)


def _own() -> Iterator[Framework]:
    return (framework(name) for name in _packages())


def _all() -> Iterator[Framework]:
    yield from _own()
    yield from (framework(name) for name in _third_parties() if name not in _packages())


def of_object(obj: Any) -> Framework:
    """The framework an object belongs to: by the first of its type's bases that stands in a known root.

    The first counts: a Keras layer also has torch's or tensorflow's among its bases. Errors: UnknownName.
    """
    known = [(f"{root}.", each) for each in _all() for root in each.roots]
    for base in type(obj).__mro__:
        name = f"{base.__module__}.{base.__qualname__}."
        for root, each in known:
            if name.startswith(root):
                return each
    found = f"{type(obj).__module__}.{type(obj).__qualname__}"
    raise UnknownName(f"an object of {found} is of no known framework", f"known: {', '.join(names())}")


def of_file(path: Path) -> Framework:
    """The framework that reads what is at `path`: by a mark inside (`claims`), by its suffix.

    What is there may be a directory, or files that begin with this name (a checkpoint). Errors: UnknownName for a
    suffix of nobody.
    """
    found = _by_content(path, _own()) or _by_suffix(path, _own())  # third parties are looked up only if need be
    found = found or _by_content(path, _all()) or _by_suffix(path, _all())
    if found is None:
        raise _nobody(path, {suffix for each in _all() for suffix in each.suffixes})
    return found


def claimed(path: Path) -> Framework | None:
    """The framework that knows what is at `path` by a mark inside, if there is one."""
    return _by_content(path, _all())


def for_target(path: Path, to: str | None = None) -> Framework:
    """The framework that writes a file of this name: `to`, or the one whose suffix it has.

    Errors: UnknownName for a suffix of nobody; FileError for a name that does not go with `to`.
    """
    if to is None:
        found = _by_suffix(path, _own(), writing=True) or _by_suffix(path, _all(), writing=True)
        if found is None:
            raise _nobody(path, {suffix for each in _all() for suffix in each.writes})
        return found
    chosen = framework(to)
    if not chosen.writes:
        raise Unsupported(f"{to} files are not written here", f"write {' '.join(_written())}")
    if not path.name.endswith(chosen.writes):
        raise FileError(f"{path.name} is not the name of a {to} file", f"its suffixes are {' '.join(chosen.writes)}")
    return chosen


def _written() -> list[str]:
    return sorted({suffix for each in _all() for suffix in each.writes})


def _nobody(path: Path, suffixes: Collection[str]) -> UnknownName:
    error = unknown("file suffix", path.suffix or path.name, sorted(suffixes))
    known = f"files are {' '.join(sorted(suffixes))}"
    return UnknownName(f"{path.name}: {error.headline}", *error.details, known)


def _by_content(path: Path, among: Iterable[Framework]) -> Framework | None:
    return next((each for each in among if each.claims is not None and each.claims(path)), None)


def _by_suffix(path: Path, among: Iterable[Framework], *, writing: bool = False) -> Framework | None:
    matches = [
        (len(suffix), each)
        for each in among
        for suffix in each.default_suffixes
        if path.name.endswith(suffix) and (suffix in each.writes or not writing)
    ]
    return max(matches, key=lambda match: match[0])[1] if matches else None

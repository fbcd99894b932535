"""What can go wrong, in one family: catch `BridgeError` for all of it.

The first line of a message says who and what was found; the indented lines under it say what was expected and what
to do. Each child is also a built-in exception, so code that knows nothing of lstmbridge still catches it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

__all__ = [
    "Ambiguous",
    "BridgeError",
    "Disagreement",
    "FileError",
    "LayoutError",
    "MissingFramework",
    "NotationError",
    "NothingRecurrent",
    "OptionError",
    "SpecError",
    "UnknownName",
    "Unsupported",
    "listed",
    "unknown",
]


class BridgeError(Exception):
    """Everything lstmbridge raises on purpose.

    `headline` is the first line (who, what was found); `details` are the lines under it (expected, what to do).

    >>> print(BridgeError("torch.nn.LSTM 'rnn': no weights", "call it once first"))
    torch.nn.LSTM 'rnn': no weights
      call it once first
    """

    def __init__(self, headline: str, *details: str) -> None:
        super().__init__(headline, *details)
        self.headline = headline
        self.details = details

    def __str__(self) -> str:
        return "\n  ".join((self.headline, *self.details))


class SpecError(BridgeError, ValueError):
    """A description of a layer that contradicts itself."""


class NotationError(BridgeError, ValueError):
    """A layout that is not written in the notation."""


class LayoutError(BridgeError, ValueError):
    """Arrays that do not have the shape, the names or the number that the layout says."""


class Ambiguous(BridgeError, ValueError):
    """The arrays alone do not say which of several layers this is; an option must."""


class Unsupported(BridgeError, NotImplementedError):
    """Refused: the target cannot hold the layer. Nothing was written."""


class UnknownName(BridgeError, LookupError):
    """A framework, layout, layer, gate or option of which nothing is known."""


class OptionError(BridgeError, ValueError):
    """What was asked for means nothing: a value out of range, an option without effect, a wrong line of a recipe."""


class MissingFramework(BridgeError, ImportError):
    """The framework that is needed is not installed."""


class FileError(BridgeError, OSError):
    """A file that cannot be read as what it claims to be, or cannot be written."""


class NothingRecurrent(FileError, LayoutError):
    """There is no recurrent layer in it."""


class Disagreement(BridgeError, AssertionError):
    """Two sides that should compute the same numbers do not."""


def unknown(kind: str, name: object, choices: Iterable[str]) -> UnknownName:
    """The error for a name that is not among `choices`, with the nearest ones.

    >>> print(unknown("framework", "pytorch", ["torch", "keras"]))
    unknown framework 'pytorch'
      did you mean 'torch'?
    """
    known = sorted(choices)
    lower = {choice.lower(): choice for choice in known}
    near = [each for each in lower if each.endswith(f".{name}".lower())]  # the end of a dotted name
    near = near or get_close_matches(str(name).lower(), lower, n=1, cutoff=0.5)
    hint = f"did you mean {lower[near[0]]!r}?" if near else f"known: {', '.join(known) or 'none'}"
    return UnknownName(f"unknown {kind} {name!r}", hint)


def listed(names: Sequence[str], most: int = 3) -> str:
    """The names in a row; of many the first, and how many more there are.

    >>> listed(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

"""Which names of files go together: weights, and the config of their model. Nothing is imported."""

from __future__ import annotations

import re

__all__ = ["configs_of", "weights_of"]

_ENDS = (".weights.h5", ".hdf5", ".h5")
_WEIGHTS = (".weights.h5", ".h5", ".hdf5", "_weights.h5", "_weights.hdf5", "-weights.h5", "-weights.hdf5")
_USUAL = ("model", "weights")

#: The words at the end of a name that say what a file holds, not of which model.
_WORDS = re.compile(r"[._-](weights|architecture|arch|config|model)$")


def configs_of(weights: str) -> list[str]:
    """The names that the config of a model may have whose weights have this name, the likeliest first.

    >>> configs_of("shop/model_weights.h5")
    ['shop/model_weights.json', 'shop/model.json']
    """
    folder, name = _split(weights)
    stem = _stem(name, _ENDS)
    usual = ["config.json"] if name == "model.weights.h5" else []
    return [folder + each for each in dict.fromkeys([f"{stem}.json", f"{_WORDS.sub('', stem)}.json", *usual])]


def weights_of(config: str) -> tuple[list[str], list[str]]:
    """The names that the weights of a model may have whose config has this name; and the usual ones of any model.

    >>> "shop/model_weights.h5" in weights_of("shop/model_architecture.json")[0]
    True
    """
    folder, name = _split(config)
    stem = _stem(name, (".json",))
    own = [f"{each}{end}" for each in dict.fromkeys((stem, _WORDS.sub("", stem))) for end in _WEIGHTS]
    usual = [f"{each}{end}" for each in _USUAL for end in _WEIGHTS]
    return [folder + each for each in own], [folder + each for each in usual]


def _split(path: str) -> tuple[str, str]:
    folder, slash, name = path.rpartition("/")
    return folder + slash, name


def _stem(name: str, ends: tuple[str, ...]) -> str:
    return next((name.removesuffix(end) for end in ends if name.endswith(end)), name)

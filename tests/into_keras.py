"""Run as a program: models that Keras itself makes and saves, converted layers put into them, loaded and run by Keras.

    python into_keras.py DIRECTORY

Makes big.keras, big.h5 and big.weights.h5, the copies new.* with the layers of source.npz in them, and ran.npz: for
each copy the outputs of its recurrent layers, and every variable that is not theirs before and after; and how far
`check` found both sides of one apart.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lstmbridge import check, migrate
from lstmbridge.into import Into

WORDS, FEATURES = 9, 5
UNITS = {"encoder": 11, "decoder": 7}


def model() -> Any:
    """Words -> a bidirectional LSTM -> a GRU -> a Dense layer; no two of its layers could take the same weights."""
    keras.utils.set_random_seed(3)
    words = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(WORDS, FEATURES, name="embedding")(words)
    x = keras.layers.Bidirectional(keras.layers.LSTM(UNITS["encoder"], return_sequences=True), name="encoder")(x)
    x = keras.layers.GRU(UNITS["decoder"], return_sequences=True, name="decoder")(x)
    x = keras.layers.Dense(3, name="head")(x)
    made = keras.Model(words, x)
    made.compile("adam", keras.losses.MeanSquaredError())
    made.optimizer.build(made.trainable_variables)
    rng = np.random.default_rng(4)
    for variable in made.optimizer.variables[2:]:  # after the count of steps and the rate
        variable.assign(rng.normal(size=variable.shape))
    return made


def variables(made: Any) -> dict[str, Any]:
    """The variables of all layers that are not recurrent, and the optimizer's."""
    own = [variable for name in ("embedding", "head") for variable in made.get_layer(name).variables]
    named = {f"own {n}": variable for n, variable in enumerate(own)}
    named |= {f"optimizer {n}": variable for n, variable in enumerate(made.optimizer.variables)}
    return {name: np.asarray(variable) for name, variable in named.items()}


def outputs(made: Any, words: Any) -> dict[str, Any]:
    inner = keras.Model(made.inputs, [made.get_layer(name).output for name in UNITS])
    return dict(zip(UNITS, (np.asarray(each) for each in inner([words])), strict=True))


def main(here: Path) -> None:
    made = model()
    made.save(here / "big.keras")
    made.save(here / "big.h5")
    made.save_weights(here / "big.weights.h5")
    (here / "big.json").write_text(made.to_json())
    words = np.array([[1, 2, 3, 4, 5, 6, 7, 8, 0], [8, 8, 1, 3, 2, 0, 5, 4, 7]], "int32")
    kept: dict[str, Any] = {"words": words, "embedding": np.asarray(made.get_layer("embedding").embeddings)}
    for name in ("big.keras", "big.h5", "big.weights.h5"):
        path = here / f"new.{name}"

        def approve(into: Into) -> None:
            found = check(here / "source.npz", into.path, pairs=into.pairs).demand()
            kept["check"] = np.array([found.largest])

        migrate(here / "source.npz", path=path, into=here / name, approve=approve if name == "big.keras" else None)
        if name == "big.weights.h5":
            again = model()
            again.load_weights(path)
        else:
            again = keras.models.load_model(path)
        for layer, y in outputs(again, words).items():
            kept[f"{name}/{layer}"] = y
        for side, which in (("before", made), ("after", again)):
            for variable, array in variables(which).items():
                kept[f"{name}/{side}/{variable.replace('/', '.')}"] = array
    np.savez(here / "ran.npz", **kept)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

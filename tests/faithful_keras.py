"""What the Keras layer that runs any Spec must do on every backend; a script, for the backend of KERAS_BACKEND."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import faithful_cases as cases
import keras
import numpy as np
from faithful_cases import BOTH, Case, agree, case
from keras import ops

from helpers import BATCH, HIDDEN, INPUT, TIME, layer_of, sequences, spec
from lstmbridge import Layer, Spec
from lstmbridge.frameworks.keras.faithful import Recurrent
from lstmbridge.frameworks.keras.layout import LAYOUTS


def layer_from(layer: Layer, **options: Any) -> Any:
    """Our layer with the weights of `layer`, in its dtype."""
    made = Recurrent(layer.spec, dtype=layer.dtype, **options)
    made.build((None, None, layer.spec.input_size))
    packed = LAYOUTS[layer.spec.cell].pack(layer.weights, layer.spec)
    made.set_weights([packed[key] for key in LAYOUTS[layer.spec.cell].keys(layer.spec)])
    return made


def flat_states(case: Case) -> list[np.ndarray] | None:
    """The initial states of a case as Keras lists them: h_f, c_f, h_b, c_b."""
    if not case.states:
        return None
    dtype = case.layer.dtype
    return [state[d].astype(dtype) for d in range(len(case.layer.spec.directions)) for state in case.states]


def mask_of(case: Case) -> np.ndarray | None:
    """The lengths of a case as a mask (b, t)."""
    return None if case.lengths is None else np.arange(TIME) < np.array(case.lengths)[:, None]


def ran(made: Any, case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """y (b, t, f), h and c of a layer with `return_state` on the inputs of a case."""
    states = flat_states(case)
    states = None if states is None else [ops.convert_to_tensor(state) for state in states]
    outputs = made(ops.convert_to_tensor(case.x.astype(case.layer.dtype)), mask=mask_of(case), initial_state=states)
    arrays = [ops.convert_to_numpy(output) for output in outputs]
    each = 2 if case.layer.spec.cell == "lstm" else 1
    count = each * len(case.layer.spec.directions)
    last = arrays[-count:]
    y = np.concatenate(arrays[:-count], axis=-1)
    return y, np.stack(last[::each]), np.stack(last[1::2]) if each == 2 else None


def worst(specs: Iterable[Spec], tolerance: float, dtype: str) -> float:
    """The largest difference from the equations; initial states and masks are there every other time."""
    found = 0.0
    for seed, each in enumerate(specs):
        one = case(each, states=seed % 2 == 0, lengths=seed % 4 < 2, dtype=dtype, seed=seed)
        found = max(found, agree(one, *ran(layer_from(one.layer, return_state=True), one), tolerance))
    return found


# ---- what every backend is asked


def it_computes_what_the_spec_says() -> float:
    step = {"jax": 3, "tensorflow": 2}.get(keras.backend.backend(), 1)  # jax compiles every layer anew
    grid = [*list(cases.forms())[::4], *cases.features(), *cases.combinations(12, seed=2)]
    return worst(grid[::step], 2e-6, "float32")


def it_learns() -> float:
    """One step of fit with masks and states changes every variable, and the loss is a number."""
    inputs = keras.Input((None, INPUT))
    masked = keras.layers.Masking()(inputs)
    y, *states = Recurrent(
        spec("lstm", peepholes=True, directions=BOTH, merge="sum", projection_size=3), return_state=True
    )(masked)
    y = Recurrent(spec("gru", input_size=3, bias="dual", reset_after=False), return_sequences=False)(y)
    model = keras.Model(inputs, keras.layers.Dense(1)(ops.concatenate([y, *states], axis=-1)))
    model.compile("sgd", "mse")
    before = [value.copy() for value in model.get_weights()]
    x = np.random.default_rng(0).normal(size=(4, TIME, INPUT)).astype("float32")
    x[1, 4:] = 0
    history = model.fit(x, np.ones((4, 1), "float32"), batch_size=2, epochs=1, verbose=0)
    assert all(np.abs(a - b).max() > 0 for a, b in zip(before, model.get_weights(), strict=True))
    loss = history.history["loss"][0]
    assert np.isfinite(loss)
    assert np.isfinite(model.predict(x, verbose=0)).all()
    return float(loss)


def it_comes_back_from_a_file() -> float:
    """A saved model gives the same numbers after `load_model`, and has the same Spec."""
    for each in (
        spec("lstm", directions=BOTH, merge="none", clip=0.5, activations=("hard_sigmoid", "softsign", "tanh")),
        spec("gru", reset_after=False),
    ):
        made = layer_from(layer_of(each), name="mine", return_state=True)
        inputs = keras.Input((None, INPUT))
        model = keras.Model(inputs, made(inputs))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            model.save(path)
            other = keras.models.load_model(path)
        assert other.get_layer("mine").spec == each
        assert other.get_layer("mine").get_config() == made.get_config()
        x = sequences(each).astype("float32")
        for a, b in zip(model(x), other(x), strict=True):
            np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))
    return 0.0


def masks_hold_the_state_and_give_zeros() -> float:
    """With steps masked at either end and inside, the steps that count are those of the shorter sequence."""
    found = 0.0
    keep = np.array([[0, 1, 1, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1]], bool)
    for each in (spec("lstm", directions=BOTH), spec("gru", directions=("reverse",)), spec("rnn")):
        layer = layer_of(each)
        made = layer_from(layer, return_state=True)
        x = sequences(each).astype("float32")
        y, *last = (ops.convert_to_numpy(value) for value in made(x, mask=keep))
        assert (y[~keep] == 0).all()
        short, *short_last = (ops.convert_to_numpy(value) for value in made(x[:1, keep[0]]))
        found = max(found, float(np.abs(y[0, keep[0]] - short[0]).max()))
        found = max(found, *(float(np.abs(a[0] - b[0]).max()) for a, b in zip(last, short_last, strict=True)))
    assert found <= 1e-6
    return found


def the_last_output_is_that_of_the_last_step_that_counts() -> float:
    one = case(spec("lstm", directions=BOTH, merge="mul"), lengths=True, dtype="float32")
    made = layer_from(one.layer, return_sequences=False)
    y = ops.convert_to_numpy(made(one.x.astype("float32"), mask=mask_of(one), initial_state=flat_states(one)))
    difference = float(np.abs(y - one.expected.h[0] * one.expected.h[1]).max())
    assert difference <= 1e-6
    return difference


def shapes_are_what_it_says() -> float:
    """`compute_output_shape`, symbolic and real outputs have the same shapes, for all ways of output."""
    for each in (spec("lstm", directions=BOTH, merge=merge) for merge in ("none", "concat", "sum")):
        for sequences_, state in ((True, True), (True, False), (False, True), (False, False)):
            made = Recurrent(each, return_sequences=sequences_, return_state=state)
            real = made(np.zeros((BATCH, TIME, INPUT), "float32"))
            said = made.compute_output_shape((BATCH, TIME, INPUT))
            symbolic = made(keras.KerasTensor((None, None, INPUT)))
            several = isinstance(real, tuple)
            assert several == isinstance(symbolic, tuple) == (each.merge == "none" or state)
            shapes = [tuple(value.shape) for value in (real if several else [real])]
            assert shapes == list(said if several else [said])
            assert [len(value.shape) for value in (symbolic if several else [symbolic])] == [len(s) for s in shapes]
    return 0.0


def it_runs_in_mixed_precision() -> float:
    one = case(spec("lstm", peepholes=True, directions=BOTH), dtype="float32", states=False)
    made = layer_from(one.layer)
    mixed = Recurrent(one.layer.spec, dtype="mixed_bfloat16")
    mixed.build((None, None, INPUT))
    mixed.set_weights(made.get_weights())
    y = mixed(one.x.astype("float32"))
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
    assert all(keras.backend.standardize_dtype(variable.dtype) == "float32" for variable in mixed.weights)
    difference = float(np.abs(ops.convert_to_numpy(ops.cast(y, "float32")) - one.expected.y).max())
    assert difference < 0.1
    return difference


def the_mask_of_an_input_is_seen_beside_an_initial_state() -> float:
    """Keras gives a layer the mask of its first input only when nothing else is given; this layer asks for it."""
    one = case(spec("gru"), lengths=True, dtype="float32")
    made = layer_from(one.layer)
    inputs, state = keras.Input((TIME, INPUT)), keras.Input((HIDDEN,))
    model = keras.Model([inputs, state], made(keras.layers.Masking()(inputs), initial_state=[state]))
    x = one.x.astype("float32") * mask_of(one)[..., None]
    y = ops.convert_to_numpy(model([x, flat_states(one)[0]]))
    difference = float(np.abs(y - one.expected.y).max())
    assert difference <= 1e-6
    return difference


CHECKS = [
    it_computes_what_the_spec_says,
    it_learns,
    it_comes_back_from_a_file,
    masks_hold_the_state_and_give_zeros,
    the_last_output_is_that_of_the_last_step_that_counts,
    shapes_are_what_it_says,
    it_runs_in_mixed_precision,
    the_mask_of_an_input_is_seen_beside_an_initial_state,
]

if __name__ == "__main__":
    assert keras.backend.backend() == sys.argv[1]
    for check in CHECKS:
        print(f"{check.__name__} {check():.3g}", flush=True)

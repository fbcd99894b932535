"""Each framework's own scheme against what that framework draws: pooled samples, orthogonality, exact constants.

The samples are compared by the Kolmogorov-Smirnov test, part by part. All seeds are fixed: the probabilities are those
of two samples of one distribution, far from the level at which a scheme would be rejected, and wrong schemes that look
much alike are rejected by the same test with a probability that is as good as zero.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from lstmbridge import Layer, Spec, from_arrays, initial_layer, read
from lstmbridge.arrays import host
from lstmbridge.initializers import (
    block_orthogonal,
    constant,
    glorot_normal,
    glorot_uniform,
    he_uniform,
    lecun_uniform,
    orthogonal,
    truncated_normal,
    uniform,
    variance_scaling,
)

COUNT, INPUT, HIDDEN, PROJECTION = 40, 29, 37, 11  # those of tf1_initial.py
BOTH = ("forward", "reverse")

#: Two samples of one distribution may be less likely than this once in ten thousand comparisons; those here are not.
REJECTED = 1e-4
#: What a wrong scheme must come to.
CERTAIN = 1e-9


# ---- what the frameworks draw


def keras_layers(cell: str) -> list[Layer]:
    keras = pytest.importorskip("keras")
    kind = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "rnn": keras.layers.SimpleRNN}[cell]
    found = []
    for seed in range(COUNT // 2):
        keras.utils.set_random_seed(seed)
        layer = keras.layers.Bidirectional(kind(HIDDEN))
        layer.build((None, None, INPUT))
        found += read(layer)
    return found


def torch_layers(cell: str) -> list[Layer]:
    torch = pytest.importorskip("torch")
    more = {"proj_size": PROJECTION} if cell == "lstm" else {}
    found: list[Layer] = []
    for seed in range(COUNT // 2):
        torch.manual_seed(seed)
        made = getattr(torch.nn, cell.upper())(INPUT, HIDDEN, bidirectional=True, **more)
        found += read(made)
    return found


def flax_layers(cell: str) -> list[Layer]:
    nn = pytest.importorskip("flax.linen")
    import jax
    from flax.traverse_util import flatten_dict

    made = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell, "rnn": nn.SimpleCell}[cell](HIDDEN)
    x = np.zeros((1, INPUT), "float32")
    init = jax.jit(lambda key: made.init(key, made.initialize_carry(key, x.shape), x))
    trees = [init(jax.random.key(seed))["params"] for seed in range(COUNT)]
    arrays = [{name: np.asarray(array) for name, array in flatten_dict(tree, sep=".").items()} for tree in trees]
    return [from_arrays(each, "flax", cell=cell) for each in arrays]


@cache
def _tf1_arrays(path: str) -> dict[str, np.ndarray]:
    pytest.importorskip("tensorflow")
    pytest.importorskip("tf_keras")
    script = Path(__file__).with_name("tf1_initial.py")
    done = subprocess.run([sys.executable, str(script), path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(np.load(path))


@pytest.fixture(scope="module")
def tf1_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("tf1") / "initial.npz")


def tf1_layers(cell: str, path: str) -> list[Layer]:
    told: dict[str, Any] = {"lstm": {"forget_constant": 1.0}, "gru": {"reset_after": False}, "rnn": {}}[cell]
    found = []
    for n in range(COUNT):
        start = f"{cell}/{n}/"
        own = {name.removeprefix(start): a for name, a in _tf1_arrays(path).items() if name.startswith(start)}
        found.append(from_arrays(own, "tf1", cell=cell, **told))
    return found


CASES = [(like, cell) for like in ("keras", "torch", "flax", "tf1") for cell in ("lstm", "gru", "rnn")]


@pytest.fixture(scope="module")
def theirs(tf1_file: str) -> Callable[[str, str], Sequence[Layer]]:
    """The layers that a framework drew, once for all tests."""
    draws = {"keras": keras_layers, "torch": torch_layers, "flax": flax_layers}

    @cache
    def drawn(like: str, cell: str) -> Sequence[Layer]:
        return tf1_layers(cell, tf1_file) if like == "tf1" else draws[like](cell)

    return drawn


def ours(spec: Spec, **said: Any) -> list[Layer]:
    """As many numbers of ours, from one generator."""
    rng = np.random.default_rng(77)
    return [initial_layer(spec, seed=rng, **said) for _ in range(COUNT // len(spec.directions))]


def pooled(layers: Sequence[Layer], part: str) -> np.ndarray:
    """Every number of that part in all layers."""
    named = [(name, array) for layer in layers for name, array in layer.weights.items()]
    return np.concatenate([host(array).ravel() for name, array in named if name.split(".")[1] == part])


def likelihood(a: Sequence[Layer], b: Sequence[Layer], part: str) -> float:
    """How likely two samples of one distribution are to be so far apart."""
    return float(stats.ks_2samp(pooled(a, part), pooled(b, part)).pvalue)


# ---- the same distributions


@pytest.mark.parametrize(("like", "cell"), CASES)
def test_every_part_has_the_distribution_of_the_framework(like: str, cell: str, theirs: Any) -> None:
    found = theirs(like, cell)
    mine = ours(found[0].spec, like=like)
    assert [each.spec for each in mine] == [each.spec for each in found]
    for part in found[0].spec.parts:
        sample = pooled(found, part)
        if len(np.unique(sample)) > 2:
            assert likelihood(mine, found, part) > REJECTED, part
            continue
        for one, other in zip(mine, found, strict=True):
            assert all(np.array_equal(one[name], host(other[name])) for name in one if name.split(".")[1] == part), part


@pytest.mark.parametrize(("like", "cell"), [case for case in CASES if case[0] in ("keras", "flax")])
def test_orthogonality_is_over_what_the_framework_has_it_over(like: str, cell: str, theirs: Any) -> None:
    """Keras: the columns of all gates together; flax: each gate."""
    for layer in (theirs(like, cell)[0], ours(theirs(like, cell)[0].spec, like=like)[0]):
        gates = [host(layer[f"forward.recurrent_kernel.{gate}"]) for gate in layer.spec.gates]
        for matrix in gates if like == "flax" else [np.concatenate(gates)]:
            np.testing.assert_allclose(matrix.T @ matrix, np.eye(HIDDEN), atol=2e-6)
        if like == "keras" and cell != "rnn":
            assert np.abs(gates[0].T @ gates[0] - np.eye(HIDDEN)).max() > 0.1


CONSTANTS = {
    ("keras", "lstm"): {"i": 0.0, "f": 1.0, "g": 0.0, "o": 0.0},
    ("keras", "gru"): {"r": 0.0, "z": 0.0, "n": 0.0},
    ("keras", "rnn"): {"n": 0.0},
    ("flax", "lstm"): {"i": 0.0, "f": 0.0, "g": 0.0, "o": 0.0},
    ("flax", "gru"): {"r": 0.0, "z": 0.0, "n": 0.0},
    ("flax", "rnn"): {"n": 0.0},
    ("tf1", "lstm"): {"i": 0.0, "f": 0.0, "g": 0.0, "o": 0.0},
    ("tf1", "gru"): {"r": 1.0, "z": 1.0, "n": 0.0},
    ("tf1", "rnn"): {"n": 0.0},
}


@pytest.mark.parametrize(("like", "cell"), CONSTANTS)
def test_biases_are_the_constants_of_the_framework(like: str, cell: str, theirs: Any) -> None:
    for layer in (*theirs(like, cell), *ours(theirs(like, cell)[0].spec, like=like)):
        for direction in layer.spec.directions:
            for gate, value in CONSTANTS[like, cell].items():
                assert (host(layer[f"{direction}.bias.{gate}"]) == value).all(), gate


def test_torch_draws_both_biases_and_the_projection_between_one_over_the_root_of_the_units(theirs: Any) -> None:
    for layers in (theirs("torch", "lstm"), ours(theirs("torch", "lstm")[0].spec, like="torch")):
        for part in layers[0].spec.parts:
            sample = pooled(layers, part)
            assert 0.98 * HIDDEN**-0.5 < np.abs(sample).max() <= HIDDEN**-0.5, part


# ---- the test has teeth

#: A scheme that is wrong, and the part in which the same comparison must see it.
MUTANTS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "glorot gate by gate": ("keras", "lstm", "kernel", {"kernel": glorot_uniform()}),
    "glorot normal": ("keras", "lstm", "kernel", {"like": "keras", "kernel": glorot_normal()}),
    "he instead of glorot": ("keras", "gru", "kernel", {"like": "keras", "kernel": he_uniform()}),
    "orthogonal gate by gate": ("keras", "lstm", "recurrent_kernel", {"recurrent_kernel": orthogonal()}),
    "a kernel of one gate": ("keras", "gru", "kernel", {"like": "keras", "kernel": {"z": glorot_uniform()}}),
    "by the inputs": ("torch", "lstm", "kernel", {"like": "torch", "kernel": lecun_uniform()}),
    "by the projection": ("torch", "lstm", "projection", {"like": "torch", "projection": uniform(PROJECTION**-0.5)}),
    "one bias zero": ("torch", "gru", "recurrent_bias", {"like": "torch", "recurrent_bias": constant(0)}),
    "not truncated": ("flax", "lstm", "kernel", {"like": "flax", "kernel": variance_scaling(1, "fan_in", "normal")}),
    "not corrected": ("flax", "gru", "kernel", {"like": "flax", "kernel": truncated_normal(INPUT**-0.5)}),
    "orthogonal over all gates": ("flax", "lstm", "recurrent_kernel", {"recurrent_kernel": block_orthogonal()}),
    "input and state apart": ("tf1", "lstm", "kernel", {"kernel": glorot_uniform()}),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_scheme_is_rejected_by_the_same_comparison(name: str, theirs: Any) -> None:
    like, cell, part, said = MUTANTS[name]
    found = theirs(like, cell)
    assert likelihood(ours(found[0].spec, **said), found, part) < CERTAIN


def test_a_missing_forget_bias_is_noticed(theirs: Any) -> None:
    found = theirs("keras", "lstm")
    assert likelihood(ours(found[0].spec, like="keras", bias=constant(0)), found, "bias") < CERTAIN

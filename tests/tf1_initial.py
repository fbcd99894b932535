"""Writes what TensorFlow 1's cells begin with, for `test_initial_like`: run as ``python tf1_initial.py OUT.npz``.

A process of its own: the cells need Keras 2. Every cell is made `COUNT` times, each array by ``cell/n/name``.
"""

from __future__ import annotations

import os
import sys
import warnings

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import tensorflow as tf

COUNT, INPUT, HIDDEN, PROJECTION = 40, 29, 37, 11

warnings.simplefilter("ignore")
v1 = tf.compat.v1
cells = v1.nn.rnn_cell
CELLS = {
    "lstm": lambda: cells.LSTMCell(HIDDEN, use_peepholes=True, num_proj=PROJECTION),
    "gru": lambda: cells.GRUCell(HIDDEN),
    "rnn": lambda: cells.BasicRNNCell(HIDDEN),
}


def main(path: str) -> None:
    """Makes them all in one graph, and saves their first values."""
    found = {}
    with tf.Graph().as_default(), v1.Session() as session:
        v1.set_random_seed(5)
        for name, make in CELLS.items():
            for n in range(COUNT):
                with v1.variable_scope(f"{name}/{n}"):
                    cell = make()
                    cell(tf.zeros((1, INPUT)), cell.zero_state(1, tf.float32))
        session.run(v1.global_variables_initializer())
        values = session.run({variable.op.name: variable for variable in v1.global_variables()})
    for full, array in values.items():
        cell_name, n, _, name = full.split("/", 3)
        found[f"{cell_name}/{n}/{name}"] = array
    np.savez(path, **found)


if __name__ == "__main__":
    main(sys.argv[1])

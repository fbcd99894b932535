"""What the checks say of five typical mistakes, word for word: who, what is wrong, where, and what would explain it.

Of outputs only how far they are apart, and where most, is left out: that is another on other processors.
"""

from __future__ import annotations

import re
from textwrap import dedent

import pytest
from mutants import MUTANTS
from teeth import run_checks

from lstmbridge.errors import Disagreement

#: A mutant, a check that notices it, and what it says.
SAID = {
    ("torch: the gates of lstm are i g f o", "structure"): """
        check_structure: gates -> torch: numbers out of place
          forward.kernel.f and .g are exchanged (in weight_ih_l0)
          forward.recurrent_kernel.f and .g are exchanged (in weight_hh_l0)
          forward.bias.f and .g are exchanged (in bias_ih_l0)
          forward.recurrent_bias.f and .g are exchanged (in bias_hh_l0)
        """,
    ("torch: the gates of lstm are i g f o", "forward"): """
        check_forward: gates and torch disagree
          layer y: 154 of 154 numbers differ, the most at ... by ... (allowed 2e-06): torch is the odd one out
          layer h: 22 of 22 numbers differ, the most at ... by ... (allowed 2e-06): torch is the odd one out
          layer c: 22 of 22 numbers differ, the most at ... by ... (allowed 2e-06): torch is the odd one out
          torch would agree, if gates f and g are exchanged
        """,
    ("torch: the weights of rnn's directions are exchanged", "structure"): """
        check_structure: gates -> torch: numbers out of place
          forward.kernel.n and reverse.kernel.n are exchanged (in weight_ih_l0)
          forward.recurrent_kernel.n and reverse.recurrent_kernel.n are exchanged (in weight_hh_l0)
          forward.bias.n and reverse.bias.n are exchanged (in bias_ih_l0)
        """,
    ("torch: forward and reverse are exchanged", "forward"): """
        check_forward: gates and torch disagree
          layer y: 308 of 308 numbers differ, the most at ... by ... (allowed 2e-06): torch is the odd one out
          layer h: 44 of 44 numbers differ, the most at ... by ... (allowed 2e-06): torch is the odd one out
          layer c: 44 of 44 numbers differ, the most at ... by ... (allowed 2e-06): torch is the odd one out
          torch would agree, if forward and reverse are exchanged
        """,
    ("onnx: one hard_sigmoid for the other, written and read alike (hard-sigmoid-1/6)", "forward"): """
        check_forward: gates and onnx disagree
          layer y: 154 of 154 numbers differ, the most at ... by ... (allowed 2e-06): onnx is the odd one out
          layer h: 22 of 22 numbers differ, the most at ... by ... (allowed 2e-06): onnx is the odd one out
          layer c: 22 of 22 numbers differ, the most at ... by ... (allowed 2e-06): onnx is the odd one out
          onnx would agree, if hard_sigmoid has the other slope
        """,
    ("b_hn is merged into b_in", "structure"): """
        check_structure: gates -> torch: numbers out of place
          forward.bias.n holds forward.bias.n + forward.recurrent_bias.n
          forward.recurrent_bias.n holds zero
        """,
    ("b_hn is merged into b_in", "forward"): """
        check_forward: gates and torch disagree
          layer y: 154 of 154 numbers differ, the most at ... by ... (allowed 2e-06): other weights or settings
          layer h: 22 of 22 numbers differ, the most at ... by ... (allowed 2e-06): other weights or settings
          layer: each side computes what its own weights and settings say; those differ (lstmbridge diff)
          torch would agree, if recurrent_bias.n is merged into bias.n
        """,
    ("an array of one gate is the source's own", "owns_memory"): """
        check_owns_memory: torch: writing changed the source too
          shared: forward.kernel.n, forward.recurrent_kernel.n
        """,
    ("torch: lstm (square) has recurrent_kernel : (g p) h for recurrent_kernel : (g h) p", "structure"): """
        check_structure: gates -> torch: numbers out of place
          forward.recurrent_kernel.i: 110 numbers are transposed, e.g. [1, 0] at [0, 1] (in weight_hh_l0)
          forward.recurrent_kernel.f: 110 numbers are transposed, e.g. [1, 0] at [0, 1] (in weight_hh_l0)
          forward.recurrent_kernel.g: 110 numbers are transposed, e.g. [1, 0] at [0, 1] (in weight_hh_l0)
          forward.recurrent_kernel.o: 110 numbers are transposed, e.g. [1, 0] at [0, 1] (in weight_hh_l0)
        """,
}


@pytest.mark.parametrize(("name", "check"), SAID, ids=map(" / ".join, SAID))
def test_what_is_said(name: str, check: str) -> None:
    [mutant] = (each for each in MUTANTS if each.name == name)
    with mutant.apply():
        run = next(run for found, run in run_checks(mutant.cases[0]) if found == check)
        with pytest.raises(Disagreement) as error:
            run()
    found = re.sub(r"at \([\d, ]+\) by [-.\de]+", "at ... by ...", str(error.value))
    assert found == dedent(SAID[name, check]).strip()

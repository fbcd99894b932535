"""The frameworks that must be there, kept quiet and on the CPU."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
for folder in ("tests", "conformance"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))

"""The colours of plots: one diverging scale, and one colour a gate; both can be told apart whatever colours one sees.

The scale is made in Oklab, where equal steps look equal (Björn Ottosson, "A perceptual color space for image
processing", 2020): lightness falls evenly from zero to both ends, blue below zero and orange above. The gates' colours
are from Okabe and Ito's palette ("Color universal design", 2008), those that can be read on white and on black.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

__all__ = ["GATES", "INK", "LINE", "NOT_FINITE", "SOFT", "STEPS", "diverging"]

INK, SOFT, LINE = "#1b1f24", "#565c64", "#c8c8c1"
#: No colour of the scale is as dark.
NOT_FINITE = "#000000"

_BLUE, _VERMILION, _GREEN, _PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
GATES: Mapping[str, str] = {
    "i": _BLUE, "f": _VERMILION, "g": _GREEN, "o": _PURPLE, "r": _BLUE, "z": _VERMILION, "n": _GREEN,
}  # fmt: skip

#: How many colours the scale has; an odd number, so that zero has one of its own.
STEPS = 255
#: Lightness of zero and of the ends; hues in degrees; the chroma's two coefficients: it is largest on the way.
_LIGHT, _DARK = 0.97, 0.40
_HUES = (255.0, 50.0)
_CHROMA = (0.38, 0.28)

_TO_CONES = np.array([[1.0, 0.3963377774, 0.2158037573], [1.0, -0.1055613458, -0.0638541728],
                      [1.0, -0.0894841775, -1.2914855480]])  # fmt: skip
_TO_RGB = np.array([[4.0767416621, -3.3077115913, 0.2309699292], [-1.2684380046, 2.6097574011, -0.3413193965],
                    [-0.0041960863, -0.7034186147, 1.7076147010]])  # fmt: skip


def diverging() -> npt.NDArray[np.float64]:
    """The scale from the lowest number to the highest: `STEPS` colours, (red, green, blue) from 0 to 1.

    >>> scale = diverging()
    >>> bool(scale[0, 2] > scale[0, 0]), bool(scale[-1, 0] > scale[-1, 2])
    (True, True)
    """
    return np.array([_rgb(*_at(t)) for t in np.linspace(-1, 1, STEPS)])


def _at(t: float) -> tuple[float, float, float]:
    """Lightness, chroma and hue at a number from -1 to 1."""
    size, (steep, back) = abs(t), _CHROMA
    return _LIGHT + (_DARK - _LIGHT) * size, steep * size - back * size**2, _HUES[int(t > 0)]


def _rgb(lightness: float, chroma: float, hue: float) -> npt.NDArray[np.float64]:
    angle = math.radians(hue)
    cones = _TO_CONES @ np.array([lightness, chroma * math.cos(angle), chroma * math.sin(angle)])
    linear = np.clip(_TO_RGB @ cones**3, 0.0, 1.0)
    bright = linear > 0.0031308
    coded: npt.NDArray[np.float64] = np.where(bright, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return coded

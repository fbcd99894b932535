"""Plots: the numbers that are drawn, which gate is in which picture, every kind of file, and every failure."""

from __future__ import annotations

import html.parser
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from helpers import HIDDEN, layer, layer_of, spec
from lstmbridge import Layer, Layout, Spec, convert, registry
from lstmbridge.cli import main
from lstmbridge.errors import FileError, MissingFramework, OptionError, UnknownName
from lstmbridge.plotting import SUFFIXES, Sheet, canvas, colours, plot, sheets, writing
from lstmbridge.plotting.sheets import pooled, radius, singular_values
from lstmbridge.testing import combinations

BOTH = ("forward", "reverse")
EVERYTHING = {"bias": "dual", "peepholes": True, "projection_size": 3, "forget_constant": 1.0}
SPECS = [pytest.param(each, id=f"{cell}-{features[0]}") for cell, features, each in combinations(1)]


def broken() -> Layer:
    """A layer with a NaN, two infinities and a number that stands out."""
    made = layer(bias="dual", path="broken")
    made["forward.kernel.f"][0, 1] = np.nan
    made["forward.recurrent_kernel.g"][3, 4] = np.inf
    made["forward.bias.f"][2] = -np.inf
    made["forward.kernel.o"][5, 2] = 9
    return made


def sheet(made: Layer, direction: str = "forward") -> Sheet:
    return Sheet.of(made, direction)


def matrix(drawn: Sheet, name: str) -> np.ndarray:
    [found] = [each for each in drawn.maps if f"{each.part}.{each.gate}".rstrip(".") == name]
    return found.values


# ---- the numbers


@pytest.mark.parametrize("each", SPECS)
def test_a_sheet_has_the_numbers_of_each_gate(each: Spec) -> None:
    made = layer_of(each)
    for direction in each.directions:
        drawn = sheet(made, direction)
        shown = {f"{m.part}.{m.gate}".rstrip("."): m.values for m in drawn.maps}
        shown |= {f"{part}.{gate}": v for part, gates in drawn.vectors.items() for gate, v in gates.items()}
        held = {n.partition(".")[2]: np.asarray(a, float) for n, a in made.weights.items() if n.startswith(direction)}
        assert shown.keys() == held.keys(), "every weight is drawn"
        for name, values in held.items():
            assert np.array_equal(shown[name], values), name
        for gate in each.gates:
            kernel = held[f"recurrent_kernel.{gate}"]
            assert np.allclose(drawn.singular[gate], np.linalg.svd(kernel)[1], rtol=1e-12)
            known = np.abs(np.linalg.eigvals(kernel)).max() if each.projection_size is None else None
            assert drawn.radius[gate] == (None if known is None else pytest.approx(known, rel=1e-12))
            for part in ("kernel", "recurrent_kernel"):
                counted = np.histogram(held[f"{part}.{gate}"], drawn.edges)[0]
                assert np.array_equal(drawn.counts[part][gate], counted)
                assert counted.sum() == held[f"{part}.{gate}"].size


def test_directions_have_a_sheet_each_and_they_differ() -> None:
    made = layer(directions=BOTH)
    forward, reverse = (sheet(made, direction) for direction in BOTH)
    assert not np.array_equal(matrix(forward, "kernel.f"), matrix(reverse, "kernel.f"))
    assert (forward.title, sheet(layer(path="enc")).title) == ("layer, forward", "enc, forward")


@pytest.mark.parametrize("bias", ["single", "dual"])
@pytest.mark.parametrize("constant", [0.0, 1.0, 2.5])
def test_the_forget_bias_is_all_that_the_gate_has_without_inputs(bias: str, constant: float) -> None:
    made = layer(bias=bias, forget_constant=constant)
    expected = made["forward.bias.f"].astype(float) + constant
    if bias == "dual":
        expected = expected + made["forward.recurrent_bias.f"]
    assert np.allclose(sheet(made).forget, expected, rtol=1e-15)


def test_there_is_a_forget_bias_only_where_something_is_used_as_one() -> None:
    assert sheet(layer("gru")).forget is None
    assert sheet(layer(coupled=True)).forget is None
    assert sheet(layer(bias="none")).forget is None
    assert (sheet(layer(bias="none", forget_constant=1.0)).forget == 1.0).all()


def test_gates_in_another_order_are_noticed() -> None:
    """The sheet of a layer that was read with two gates exchanged differs in just these, whatever is looked at."""
    torch = registry.framework("torch").layout.LAYOUTS["lstm"]
    made = layer(bias="dual")
    lines = [(line.key, line.text) for line in torch.lines]
    wrong = Layout("i g f o", *lines, directions=torch.directions)
    arrays = torch.pack(made.weights, made.spec)
    read_wrongly = made.replace(weights=wrong.unpack(arrays, made.spec))
    right, other = sheet(made), sheet(read_wrongly)
    for gate, differs in {"i": False, "f": True, "g": True, "o": False}.items():
        for part in ("kernel", "recurrent_kernel"):
            assert np.array_equal(matrix(right, f"{part}.{gate}"), matrix(other, f"{part}.{gate}")) is not differs
            assert np.array_equal(right.counts[part][gate], other.counts[part][gate]) is not differs
        assert np.array_equal(right.singular[gate], other.singular[gate]) is not differs
        assert (right.radius[gate] == other.radius[gate]) is not differs
        assert np.array_equal(right.vectors["bias"][gate], other.vectors["bias"][gate]) is not differs
    assert right.forget is not None
    assert not np.array_equal(right.forget, other.forget)
    assert np.array_equal(matrix(right, "kernel.f"), matrix(other, "kernel.g"))


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_pooling_loses_no_large_number_and_no_nan(rows: int, columns: int, most: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    full = rng.normal(size=(rows, columns))
    full[rng.random(full.shape) < 0.02] = np.nan
    small, (a, b) = pooled(full, most)
    assert max(small.shape) <= most
    assert (a, b) == (-(-rows // most), -(-columns // most))
    for r, c in np.ndindex(*small.shape):
        block = full[r * a : (r + 1) * a, c * b : (c + 1) * b]
        if np.isnan(block).any():
            assert np.isnan(small[r, c])
        else:
            assert small[r, c] == block.flat[np.abs(block).argmax()]


def test_a_large_matrix_is_pooled_and_the_caption_says_so() -> None:
    made = layer_of(Spec(cell="rnn", input_size=3, hidden_size=sheets.MOST + 1))
    made["forward.recurrent_kernel.n"][7, 9] = -5.0
    drawn = sheet(made)
    kernel, recurrent = drawn.maps
    assert (kernel.values.shape, kernel.block) == ((129, 3), (2, 1))
    assert (recurrent.values.shape, recurrent.block, recurrent.shape) == ((129, 129), (2, 2), (257, 257))
    assert recurrent.values[3, 4] == -5.0
    [said] = [line for line in drawn.caption() if line.startswith("Of each block")]
    assert "(kernel 2 x 1, recurrent kernel 2 x 2) the one of largest |w| is shown, with its sign" in said
    assert not [line for line in sheet(layer()).caption() if line.startswith("Of each block")]


def test_one_number_that_stands_out_does_not_take_all_colours() -> None:
    made = layer()
    usual = sheet(made)
    assert usual.scale == max(np.abs(each.values).max() for each in usual.maps)
    assert usual.beyond == 0
    made["forward.kernel.o"][5, 2] = 100.0
    drawn = sheet(made)
    assert drawn.scale < 1.2 * usual.scale
    assert drawn.largest == 100.0
    beyond = sum(int((np.abs(each.values) > drawn.scale).sum()) for each in drawn.maps)
    assert drawn.beyond == beyond >= 1
    assert "the largest |w| is 100" in drawn.caption()[0]
    assert drawn.counts["kernel"]["o"].sum() == 5 * HIDDEN, "it is in the bin at the end"
    assert drawn.counts["kernel"]["o"][-1] >= 1


@pytest.mark.parametrize("number", [0.0, np.nan, np.inf])
def test_a_layer_without_any_size_has_a_scale_all_the_same(number: float) -> None:
    made = layer()
    for array in made.weights.values():
        array[:] = number
    drawn = sheet(made)
    assert drawn.scale == 1.0
    with canvas.styled():
        canvas.figure([drawn]).canvas.draw()


@pytest.mark.parametrize(("dtype", "size"), [("float64", 1e300), ("float64", 1e-300), ("float32", 3e38)])
def test_sizes_at_the_ends_of_the_range(dtype: str, size: float) -> None:
    made = layer(dtype=dtype)
    made = made.replace(weights={name: (size * np.tanh(array)).astype(dtype) for name, array in made.weights.items()})
    drawn = sheet(made)
    for gate in "ifgo":
        kernel = made[f"forward.recurrent_kernel.{gate}"].astype(float) / size
        assert np.allclose(np.asarray(drawn.singular[gate]) / size, np.linalg.svd(kernel)[1])
    with canvas.styled():
        canvas.figure([drawn]).canvas.draw()


def test_singular_values_and_radius_where_there_are_none() -> None:
    assert singular_values(np.array([[1.0, np.nan]])) is None
    assert radius(np.array([[np.inf]])) is None
    assert radius(np.ones((2, 3))) is None
    assert np.array_equal(singular_values(np.zeros((2, 2))), [0.0, 0.0])
    assert radius(np.array([[0.0, -2.0], [2.0, 0.0]])) == 2.0, "of a pair of complex eigenvalues"


def test_no_radius_is_computed_where_it_takes_long_and_the_caption_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "_LARGEST", HIDDEN - 1)
    assert "No spectral radius of r z n: it has more than 10 units." in sheet(layer("gru")).caption()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_weights_of_any_dtype_are_drawn(dtype: str) -> None:
    made = layer("rnn", dtype=dtype)
    assert np.array_equal(matrix(sheet(made), "kernel.n"), np.asarray(made["forward.kernel.n"], np.float64))


def test_what_a_caption_says() -> None:
    assert sheet(layer(coupled=True)).caption()[-1] == (
        "What belongs to f is not used: the forget gate is 1 - i (coupled)."
    )
    said = sheet(layer(**EVERYTHING)).caption()
    assert "No spectral radius of i f g o: 11 x 3 is not square." in said
    assert "Forget bias: bias.f + recurrent_bias.f + the +1 that is added at run time, unit by unit." in said
    said = sheet(broken()).caption()
    assert "No spectral radius of g: not all numbers are finite." in said
    assert said[-1] == "3 numbers are not finite (NaN or infinite): black in the maps, left out elsewhere."


# ---- the pictures


@pytest.fixture
def style() -> Iterator[None]:
    with canvas.styled():
        yield


def axes_of(made: Figure, name: str) -> Any:
    [found] = [axes for axes in made.axes if axes.get_label() == name]
    return found


@pytest.mark.usefixtures("style")
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_each_gate_is_in_the_picture_that_has_its_name(cell: str) -> None:
    made = layer(cell)
    drawn = sheet(made)
    picture = canvas.figure([drawn])
    words = {"i": "input", "f": "forget", "g": "cell candidate", "o": "output", "r": "reset", "z": "update", "n": "new"}
    for part, gate in itertools.product(("kernel", "recurrent_kernel"), made.spec.gates):
        axes = axes_of(picture, f"{part}.{gate}")
        assert axes.get_title(loc="left").startswith(f"{gate}  {words[gate]}")
        [image] = axes.images
        assert np.array_equal(np.asarray(image.get_array()), made[f"forward.{part}.{gate}"].astype(float))
        assert (image.norm.vmin, image.norm.vmax) == (-drawn.scale, drawn.scale), "one scale, zero in its middle"
    lines = {line.get_label()[0]: line for line in axes_of(picture, "singular values").lines}
    for gate in made.spec.gates:
        assert np.array_equal(lines[gate].get_ydata(), drawn.singular[gate])
        assert lines[gate].get_color() == colours.GATES[gate]
        assert lines[gate].get_label() == f"{gate}  {drawn.radius[gate]:.3g}"


@pytest.mark.usefixtures("style")
def test_histograms_and_biases_stand_in_the_row_of_their_gate() -> None:
    made = layer(bias="dual")
    drawn = sheet(made)
    picture = canvas.figure([drawn])
    axes = axes_of(picture, "numbers of recurrent_kernel")
    assert [label.get_text() for label in axes.get_yticklabels()] == list("ifgo")
    for gate, filled in zip("ifgo", axes.patches[::2], strict=True):
        values, edges, base = filled.get_data()
        counts = (values - base) / 0.86 * max(each.max() for each in drawn.counts["recurrent_kernel"].values())
        assert np.allclose(counts, drawn.counts["recurrent_kernel"][gate])
        assert base == -"ifgo".index(gate)
        assert np.array_equal(edges, drawn.edges)
    dots = axes_of(picture, "biases").collections
    for (part, gate), each in zip(itertools.product(("bias", "recurrent_bias"), "ifgo"), dots, strict=True):
        where = np.asarray(each.get_offsets())
        assert np.allclose(where[:, 0], made[f"forward.{part}.{gate}"])
        assert (np.abs(where[:, 1] + "ifgo".index(gate)) < 0.5).all()
        assert (np.diff(where[:, 1]) < 0).all(), "units from top to bottom"


@pytest.mark.usefixtures("style")
@pytest.mark.parametrize("constant", [0.0, 1.0, -2.5])
def test_the_constant_of_the_run_time_is_drawn_into_the_forget_bias(constant: float) -> None:
    drawn = sheet(layer(forget_constant=constant))
    axes = axes_of(canvas.figure([drawn]), "forget bias")
    assert sum(bar.get_height() for bar in axes.patches) == HIDDEN
    dashed = [line for line in axes.lines if line.get_label() == "constant"]
    assert [line.get_xdata()[0] for line in dashed] == [constant] * bool(constant)
    assert (f"{constant:+g} that is added at run time" in axes.get_xlabel()) is bool(constant)


ACTIVATIONS = (("hard_sigmoid", 1 / 6, 0.5), ("scaled_tanh", 1 / 7, 1 / 3), ("affine", 1 / 7, 1 / 3))
MORE = {"clip": 1 / 3, "cell_clip": 1 / 7, "merge": "mul"}
CASES = {
    "bidirectional": lambda: layer(directions=BOTH, path="enc"),
    "everything": lambda: layer(**EVERYTHING),
    "coupled": lambda: layer(coupled=True, bias="none"),
    "gru": lambda: layer("gru", bias="dual", input_size=1),
    "rnn": lambda: layer("rnn", path="x" * 200),
    "no bias": lambda: layer("rnn", bias="none"),
    "one unit": lambda: layer(input_size=1, hidden_size=1, bias="dual"),
    "large": lambda: layer_of(Spec(cell="lstm", input_size=300, hidden_size=512, bias="dual", forget_constant=1.0)),
    "broken": broken,
    "long words": lambda: layer(
        activations=ACTIVATIONS, reverse_activations=ACTIVATIONS[::-1], directions=BOTH, **MORE
    ),
    "tiny numbers": lambda: scaled(1e-9),
    "large numbers": lambda: scaled(1e9),
}


def scaled(factor: float) -> Layer:
    made = layer(dtype="float64", bias="dual")
    return made.replace(weights={name: factor * array for name, array in made.weights.items()})


@pytest.mark.usefixtures("style")
@pytest.mark.parametrize("name", CASES)
def test_nothing_overlaps_and_nothing_is_cut_off(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "radius", lambda _: 0.123)  # it takes the time, and here only its text counts
    made = CASES[name]()
    for bare in (False, True):
        picture = canvas.figure([sheet(made, direction) for direction in made.spec.directions], bare=bare)
        assert collisions(picture) == []


def collisions(picture: Figure) -> list[str]:
    """Pairs of axes (with their labels, ticks and legends), of texts, of numbers on an axis that touch; and what sticks
    out."""
    picture.draw_without_rendering()
    found = []
    for axis in (axis for axes in picture.axes for axis in (axes.xaxis, axes.yaxis)):
        labels = [each for each in axis.get_ticklabels() if each.get_visible() and each.get_text()]
        inside = [each.get_window_extent() for each in labels]
        found += [f"numbers of {axis.axes.get_label()}" for x, y in itertools.pairwise(inside) if x.overlaps(y)]
    things: list[Any] = [*picture.axes, *picture.texts]
    boxes = {f"{n} {each.get_label() or each.get_text()}": each.get_tightbbox() for n, each in enumerate(things)}
    found += [f"{a} and {b}" for (a, x), (b, y) in itertools.combinations(boxes.items(), 2) if x.overlaps(y)]
    whole = picture.bbox
    outside = [
        name for name, box in boxes.items()
        if box.x0 < whole.x0 or box.y0 < whole.y0 or box.x1 > whole.x1 or box.y1 > whole.y1
    ]  # fmt: skip
    return found + [f"{name} sticks out" for name in outside]


@pytest.mark.usefixtures("style")
def test_a_collision_would_be_seen() -> None:
    picture = canvas.figure([sheet(layer("rnn"))])
    picture.text(0.3, 0.5, "a text in the way of others")
    assert collisions(picture)


def test_colours_can_be_told_apart() -> None:
    """Lightness falls evenly from the middle to both ends; the gates' colours have a contrast of 3 on both papers."""
    scale = colours.diverging()
    assert len(scale) == colours.STEPS
    lightness = np.array([oklab_lightness(each) for each in scale])
    half = colours.STEPS // 2
    steps = np.diff(lightness)
    assert (steps[:half] > 0).all()
    assert (steps[half:] < 0).all()
    assert np.abs(steps).max() < 1.6 * np.abs(steps).mean()
    assert np.allclose(lightness, lightness[::-1], atol=0.012)
    assert lightness.min() > 0.35, "black is none of them"
    for colour in set(colours.GATES.values()):
        assert all(contrast(colour, paper) >= 3 for paper in ("#ffffff", "#1c2024")), colour


def linear(colour: Any) -> np.ndarray:
    rgb = np.array(matplotlib.colors.to_rgb(colour))
    return np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)


def oklab_lightness(colour: Any) -> float:
    cones = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                      [0.0883024619, 0.2817188376, 0.6299787005]]) @ linear(colour)  # fmt: skip
    return float(np.array([0.2104542553, 0.7936177850, -0.0040720468]) @ np.cbrt(cones))


def contrast(a: str, b: str) -> float:
    """As the guidelines for web content (WCAG 2.1) define it."""
    x, y = sorted(float(np.array([0.2126, 0.7152, 0.0722]) @ linear(each)) + 0.05 for each in (a, b))
    return y / x


# ---- the files


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file of two layers: a bidirectional LSTM and the GRU that reads it."""
    first = layer(path="encoder", directions=BOTH, bias="dual")
    second = layer("gru", path="decoder", input_size=2 * HIDDEN, bias="dual", seed=1).replace(after="encoder")
    return convert((first, second), path=tmp_path / "model.npz")  # type: ignore[no-any-return]


def test_png_and_svg_are_one_picture(model: Path, tmp_path: Path) -> None:
    drawn = plot(model, tmp_path / "out.png")
    assert [each.title for each in drawn.sheets] == ["encoder, forward", "encoder, reverse", "decoder, forward"]
    data = drawn.path.read_bytes()
    assert data.startswith(b"\x89PNG")
    size = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    high = sum(canvas.height(each) for each in drawn.sheets)
    assert size == (canvas.WIDTH * canvas.DPI, pytest.approx(high * canvas.DPI, abs=1))
    text = plot(model, tmp_path / "out.svg").path.read_text()
    ElementTree.fromstring(text)
    assert all(title in text for title in ("encoder, forward", "encoder, reverse", "decoder, forward"))


def test_pdf_has_a_page_for_each_sheet(model: Path, tmp_path: Path) -> None:
    data = plot(model, tmp_path / "out.pdf").path.read_bytes()
    assert data.startswith(b"%PDF")
    assert len(re.findall(rb"/Type /Page\b", data)) == 3


class _Page(html.parser.HTMLParser):
    """What a page has: its elements, the text, and where its attributes lead."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_html_is_one_page_with_the_facts_and_a_drawing_for_each_sheet(model: Path, tmp_path: Path) -> None:
    page = _Page(plot(model, tmp_path / "out.html").path.read_text())
    said = " ".join(" ".join(page.text).split())
    assert page.tags.count("svg") == 3
    assert page.tags.count("h2") == 2
    assert "script" not in page.tags
    assert all(link.startswith(("#", "data:")) for link in page.links), "nothing is loaded from elsewhere"
    assert f"2 * (4 * ((5 + {HIDDEN}) * {HIDDEN} + 2 * {HIDDEN})) = 1,584" in said
    assert "all 2 layers: 1,584 + 1,155 = 2,739 parameters" in said
    assert "Spectral radius of the recurrent kernels: r" in said
    assert "forward.recurrent_bias.f" in said


def test_drawings_on_one_page_share_no_names(model: Path, tmp_path: Path) -> None:
    """Of two elements with one name the first is meant: a drawing would be clipped as another is."""
    text = plot(model, tmp_path / "out.html").path.read_text()
    names = re.findall(r' id="([^"]+)"', text)
    assert len(names) == len(set(names))
    assert set(re.findall(r'url\(#([^)]+)\)|xlink:href="#([^"]+)"', text))
    assert {a or b for a, b in re.findall(r'url\(#([^)]+)\)|xlink:href="#([^"]+)"', text)} <= set(names)


def test_a_page_is_readable_on_light_and_on_dark(model: Path, tmp_path: Path) -> None:
    text = plot(model, tmp_path / "out.html").path.read_text()
    assert "prefers-color-scheme: dark" in text
    drawings = text[text.index("<svg") :]
    assert "var(--ink)" in drawings
    assert not any(colour in drawings for colour in (colours.INK, colours.SOFT, colours.LINE, "#ffffff"))


NAMES = ["$x^2$", "a_{b", '<b>bold</b> & "quoted"', "層", "\x00\u202e", "two\nlines", "x" * 300]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", [".html", ".png"])
def test_names_are_text_whatever_stands_in_them(name: str, suffix: str, tmp_path: Path) -> None:
    drawn = plot(layer("rnn", path=name), tmp_path / f"out{suffix}")
    if suffix == ".html":
        page = _Page(drawn.path.read_text())
        assert "b" not in page.tags
        assert any(name.replace("\x00\u202e", "\\x00\\u202e") in each for each in page.text)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_weights_give_the_same_file(suffix: str, tmp_path: Path) -> None:
    first, second = (plot(layer("gru"), tmp_path / f"{name}{suffix}").path.read_bytes() for name in "ab")
    assert first == second


def test_a_layer_with_numbers_that_are_not_finite_is_drawn_and_says_so(tmp_path: Path) -> None:
    drawn = plot(broken(), tmp_path / "out.svg")
    text = drawn.path.read_text()
    assert "f  forget gate, 1 NaN" in text
    assert "g  cell candidate, 1 infinite" in text
    assert "g  not finite" in text
    assert "1 not finite, left out" in text
    assert "3 numbers are not finite (NaN or infinite): black in the maps, left out elsewhere." in text
    with canvas.styled():
        picture = canvas.figure(drawn.sheets)
        [image] = axes_of(picture, "kernel.f").images
        assert np.argwhere(np.ma.getmaskarray(image.get_array())).tolist() == [[0, 1]]
        assert matplotlib.colors.to_hex(image.cmap.get_bad()) == colours.NOT_FINITE


def test_only_the_layers_that_were_asked_for_are_drawn(model: Path, tmp_path: Path) -> None:
    assert [each.title for each in plot(model, tmp_path / "a.png", layers=["decoder"]).sheets] == ["decoder, forward"]
    assert [each.title for each in plot(model, tmp_path / "b.png", layers="decoder").sheets] == ["decoder, forward"]
    with pytest.raises(UnknownName, match="did you mean 'decoder'"):
        plot(model, tmp_path / "c.png", layers=["decodr"])


def test_a_live_object_is_drawn(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.LSTM(5, 11)
    [drawn] = plot(module, tmp_path / "x.html").sheets
    assert np.allclose(matrix(drawn, "kernel.g"), module.weight_ih_l0[22:33].detach().numpy())
    assert "<h1>LSTM</h1>" in (tmp_path / "x.html").read_text()


def test_progress_is_told(model: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    plot(model, tmp_path / "x.png", progress=lambda *each: told.append(each))
    assert told == [
        ("drawing encoder, forward", 0, 3), ("drawing encoder, reverse", 1, 3), ("drawing decoder, forward", 2, 3),
    ]  # fmt: skip


# ---- failures, and what is left behind


def left_in(folder: Path, *but: Path) -> list[str]:
    return [each.name for each in folder.iterdir() if each not in but]


def test_another_suffix(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"out\.pgn: unknown kind of picture '\.pgn'\n  did you mean '\.png'"):
        plot(model, tmp_path / "out.pgn")
    with pytest.raises(UnknownName, match="unknown kind of picture") as caught:
        plot(model, tmp_path / "out.tiff")
    assert caught.value.details[-1] == "known: .html, .png, .svg, .pdf"
    with pytest.raises(UnknownName, match="unknown kind of picture 'out'"):
        plot(model, tmp_path / "out")
    assert left_in(tmp_path, model) == []


def test_an_existing_file_is_overwritten_only_by_force(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.svg"
    out.write_text("mine")
    with pytest.raises(FileError, match="exists already"):
        plot(model, out)
    assert out.read_text() == "mine"
    plot(model, out, force=True)
    assert "<svg" in out.read_text()
    assert left_in(tmp_path, model, out) == []


def test_without_matplotlib_the_error_says_what_to_install(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [each for each in sys.modules if each.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("canvas", "writing"):
        monkeypatch.delitem(sys.modules, f"lstmbridge.plotting.{name}")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingFramework) as caught:
        plot(model, tmp_path / "out.png")
    assert str(caught.value).splitlines() == [
        "plots need the package 'matplotlib', which is not installed", "  pip install 'lstmbridge[plot]'",
    ]  # fmt: skip
    assert left_in(tmp_path, model) == []


def test_a_picture_that_would_be_too_high(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "TALLEST", 4000)
    with pytest.raises(OptionError, match=r"3 sheets.*more than 4,000 pixels high\n  choose some: layers= \(--layer\)"):
        plot(model, tmp_path / "out.png")
    assert left_in(tmp_path, model) == []
    for suffix in (".pdf", ".html"):
        assert plot(model, tmp_path / f"out{suffix}").path.exists()
    assert plot(model, tmp_path / "out.png", layers=["decoder"]).path.exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), MemoryError(), RuntimeError("a bug")])
def test_nothing_is_left_behind_on_failure(
    suffix: str, problem: Exception, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise problem

    monkeypatch.setattr(Figure, "savefig", failing)
    expected = type(problem) if isinstance(problem, RuntimeError) else FileError
    with pytest.raises(expected) as caught:
        plot(model, tmp_path / f"out{suffix}")
    if expected is FileError:
        assert "nothing was left behind" in str(caught.value)
    assert left_in(tmp_path, model) == []


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"nothing of the kind")
    with pytest.raises(FileError, match="not a readable"):
        plot(tmp_path / "x.npz", tmp_path / "x.png")
    assert left_in(tmp_path) == ["x.npz"]


# ---- the library around it


def test_no_global_state_is_changed(model: Path, tmp_path: Path) -> None:
    """Neither the settings of a user, nor the figures of pyplot, which is not even imported."""
    with matplotlib.rc_context({"font.size": 31, "axes.facecolor": "red", "text.color": "pink"}):
        before = dict(matplotlib.rcParams)
        odd = plot(model, tmp_path / "odd.svg").path.read_bytes()
        assert dict(matplotlib.rcParams) == before
    assert odd == plot(model, tmp_path / "usual.svg").path.read_bytes(), "nor do they change the picture"
    code = (
        "import sys; from lstmbridge import plot\n"
        "assert not [name for name in sys.modules if name.startswith('matplotlib')]\n"
        f"plot({str(model)!r}, {str(tmp_path / 'other.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "MPLBACKEND": "agg"})


# ---- the command


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


def test_the_command_says_what_it_drew(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    found = call("plot", model, "-o", out, "--layer", "decoder")
    assert found.exit_code == 0, found.output
    assert found.output.splitlines() == [
        f"decoder, forward: gru {2 * HIDDEN} -> {HIDDEN}, dual bias, reset after", f"wrote {out}",
    ]  # fmt: skip
    assert call("plot", model, "-o", out).exit_code == 1
    assert call("plot", model, "-o", out, "--force").exit_code == 0
    assert call("plot", model, "-o", tmp_path / "out.jpg").exit_code == 2
    assert call("plot", model, "-o", out, "--force", "--layer", "nobody").exit_code == 2
    assert call("plot", model).exit_code == 2


def test_the_command_says_what_is_not_finite(tmp_path: Path) -> None:
    file = convert(broken(), path=tmp_path / "x.npz")
    found = call("plot", file, "-o", tmp_path / "x.png")
    assert "broken, forward: lstm 5 -> 11, dual bias; 3 numbers are not finite" in found.output


def test_the_command_as_data(tmp_path: Path) -> None:
    made = broken()
    file = convert(made, path=tmp_path / "x.npz")
    document = json.loads(call("plot", file, "-o", tmp_path / "x.svg", "--json").output)
    [told] = document["sheets"]
    drawn = sheet(made)
    assert told["singular_values"]["g"] is None
    assert np.allclose(told["singular_values"]["f"], drawn.singular["f"])
    assert told["spectral_radius"]["o"] == drawn.radius["o"]
    assert told["forget_bias"][2] is None, "an infinity"
    assert (told["layer"], told["direction"], told["not_finite"]) == ("broken", "forward", 3)
    assert told["maps"][1] == {"part": "kernel", "gate": "f", "shape": [11, 5], "block": [1, 1]}
    assert spec().sizes["h"] == told["maps"][0]["shape"][0]

"""Directories of small models for the tests of jobs, and many ways to damage one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from helpers import layer
from lstmbridge import write

__all__ = ["damaged", "models"]


def models(folder: Path, count: int, suffix: str = ".h5") -> list[str]:
    """So many models of three cells and several sizes, in folders of ten; gives their relative names."""
    names = []
    for number in range(count):
        cell = ("lstm", "gru", "rnn")[number % 3]
        bias = "dual" if cell == "gru" else "single"
        made = layer(cell, path="rnn", seed=number, bias=bias, input_size=3 + number % 4, hidden_size=6 + number % 5)
        name = f"part{number // 10:02}/model{number:04}{suffix}"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write([made], path=folder / name)
        names.append(name)
    return names


def damaged(whole: bytes, count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """So many ways to damage a file: cut short, bits flipped, stretches zeroed, swapped or random, and others."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        name, damage = _WAYS[number % len(_WAYS)]
        yield f"{number:03}-{name}", damage(bytearray(whole), rng)


def _cut(data: bytearray, rng: np.random.Generator) -> bytes:
    return bytes(data[: int(rng.integers(0, len(data)))])


def _behead(data: bytearray, rng: np.random.Generator) -> bytes:
    return bytes(data[int(rng.integers(1, len(data))) :])


def _flip(data: bytearray, rng: np.random.Generator) -> bytes:
    for at in rng.integers(0, len(data), size=int(rng.integers(1, 40))):
        data[at] ^= 1 << int(rng.integers(0, 8))
    return bytes(data)


def _flip_head(data: bytearray, rng: np.random.Generator) -> bytes:
    for at in rng.integers(0, min(512, len(data)), size=int(rng.integers(1, 20))):
        data[at] ^= int(rng.integers(1, 256))
    return bytes(data)


def _flip_tail(data: bytearray, rng: np.random.Generator) -> bytes:
    for at in rng.integers(max(0, len(data) - 512), len(data), size=int(rng.integers(1, 20))):
        data[at] ^= int(rng.integers(1, 256))
    return bytes(data)


def _stretch(fill: Callable[[int, np.random.Generator], bytes]) -> Callable[[bytearray, np.random.Generator], bytes]:
    def damage(data: bytearray, rng: np.random.Generator) -> bytes:
        start = int(rng.integers(0, len(data)))
        stop = min(len(data), start + int(rng.integers(1, 4096)))
        data[start:stop] = fill(stop - start, rng)
        return bytes(data)

    return damage


def _swap(data: bytearray, rng: np.random.Generator) -> bytes:
    half = int(rng.integers(1, len(data)))
    return bytes(data[half:] + data[:half])


def _again(data: bytearray, rng: np.random.Generator) -> bytes:
    return bytes(data + data[: int(rng.integers(1, len(data)))])


def _insert(data: bytearray, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(0, len(data)))
    return bytes(data[:at] + rng.bytes(int(rng.integers(1, 64))) + data[at:])


def _large_numbers(data: bytearray, rng: np.random.Generator) -> bytes:
    """Lengths and offsets that are far too large, wherever there are some."""
    for at in rng.integers(0, max(1, len(data) - 8), size=12):
        data[at : at + 8] = b"\xff\xff\xff\xff\xff\xff\xff\x7f"
    return bytes(data)


def _text(data: bytearray, rng: np.random.Generator) -> bytes:
    return b"<html><body>404 not found</body></html>"


_WAYS = (
    ("cut", _cut),
    ("beheaded", _behead),
    ("flipped", _flip),
    ("flipped-head", _flip_head),
    ("flipped-tail", _flip_tail),
    ("zeros", _stretch(lambda count, _: bytes(count))),
    ("ones", _stretch(lambda count, _: b"\xff" * count)),
    ("noise", _stretch(lambda count, rng: rng.bytes(count))),
    ("swapped", _swap),
    ("again", _again),
    ("inserted", _insert),
    ("large-numbers", _large_numbers),
    ("text", _text),
)

"""HTML that is put together from text: whatever stands in a name or a number is text in it, never markup."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from functools import lru_cache

__all__ = ["Markup", "shown", "tag", "together"]

#: A text longer than this is cut, and says so.
_LONGEST = 20_000
#: Characters that would not show, or turn round what follows them, or cannot be written: shown as their escapes.
_HIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
#: The password in a URL; a page is for showing around.
_PASSWORD = re.compile(r"(?<=://)([^\s/@:]*):[^\s/@]*(?=@)")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, *content: object, **attributes: object) -> Markup:
    """An element; an attribute that is False or None is left out, `class_` and `data_x` are `class` and `data-x`."""
    written = "".join(
        f" {key.strip('_').replace('_', '-')}" + ("" if value is True else f'="{html.escape(shown(str(value)))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    inner = "".join(part if isinstance(part, Markup) else html.escape(shown(str(part))) for part in content)
    return Markup(f"<{name}{written}>{inner}</{name}>")


def together(parts: Iterable[Markup]) -> Markup:
    """Elements one after another."""
    return Markup("\n".join(parts))


@lru_cache(maxsize=1 << 12)
def shown(text: str) -> str:
    r"""Text as a page can show it: without passwords, hidden characters as escapes, and not endless.

    >>> shown("ftp://me:secret@host/a\x00\u202e\udcff.h5")
    'ftp://me:***@host/a\\x00\\u202e\\udcff.h5'
    """
    safe = _PASSWORD.sub(r"\1:***", _HIDDEN.sub(lambda match: ascii(match[0])[1:-1], text))
    return safe if len(safe) <= _LONGEST else f"{safe[:_LONGEST]} ... ({len(safe) - _LONGEST:,} more characters)"

"""The public names: each is there, none is hidden by a module of the same name."""

from __future__ import annotations

import pkgutil

import pytest

import lstmbridge


def test_every_public_name_is_there_and_documented() -> None:
    assert lstmbridge.__all__ == sorted(lstmbridge._HOMES)
    for name in lstmbridge.__all__:
        assert getattr(lstmbridge, name).__doc__


def test_no_module_hides_a_public_name() -> None:
    """A submodule becomes an attribute of the package when it is imported, and would take the name's place."""
    modules = {module.name for module in pkgutil.iter_modules(lstmbridge.__path__)}
    assert not modules & set(lstmbridge.__all__)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lstmbridge.nothing  # noqa: B018
    assert set(lstmbridge.__all__) <= set(dir(lstmbridge))

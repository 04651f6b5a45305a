"""Gateways that tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.control_gateway import Gateway, running


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One worker without keys, shared by the tests of a module."""
    yield from running(tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Two workers on one socket."""
    yield from running(tmp_path_factory.mktemp("two"), workers=2)

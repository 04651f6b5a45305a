from __future__ import annotations

import pytest

from tests.support.tiny_model import make_tiny_adapter, make_tiny_model


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def tiny_adapters(tmp_path_factory, tiny_base):
    folder = tmp_path_factory.mktemp("adapters")
    return [make_tiny_adapter(folder / f"tiny-{seed}", tiny_base, seed=seed) for seed in (1, 2)]

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway.config import Config, load_config
from gateway.traces.store import Store
from tests.support.store import empty, started_store, write_config


@pytest.fixture(scope="session", autouse=True)
def one_tls_context() -> Iterator[None]:
    """httpx reads all certificates of the world for each client, which takes longer than most tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "httpx._transports.default.create_ssl_context", functools.cache(httpx.create_ssl_context)
        )
        yield


@pytest.fixture(scope="session")
def embedded_config_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The configuration file of an embedded store that runs for the whole session."""
    path = write_config(tmp_path_factory.mktemp("store"))
    with started_store(path):
        yield path


@pytest.fixture(scope="session")
def embedded_config(embedded_config_path: Path) -> Config:
    """The same, loaded."""
    return load_config(embedded_config_path)


@pytest.fixture
def clean_store(embedded_config: Config) -> Iterator[Store]:
    """A connection to the session's embedded store, without rows."""
    with Store.connect(embedded_config, {}) as store:
        empty(store)
        yield store

"""The files of counters, and one worker's ledger over them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.quotas import Ledger, QuotaFiles
from tests.support.quotas import files_in


@pytest.fixture
def files(tmp_path: Path) -> QuotaFiles:
    return files_in(tmp_path)


@pytest.fixture
def ledger(files: QuotaFiles) -> Iterator[Ledger]:
    opened = Ledger(files)
    yield opened
    opened.close()

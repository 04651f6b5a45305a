from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.asking import said
from tests.support.upstream import ScriptedUpstream, answers


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    """A scripted upstream that finds everything good, unless told otherwise."""
    with ScriptedUpstream() as running:
        running.default = answers(said("yes"))
        yield running


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between tries a test waits no time, except for what the upstream asks for."""
    monkeypatch.setattr("judges.llm.asking._back_off", lambda _: 0.0)

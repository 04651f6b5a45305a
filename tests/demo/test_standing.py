"""The demo's judge has no labels, and its report says so."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from demo.report import Report, lineage
from demo.view import print_report
from gateway.paths import paths_of
from gateway.traces.store import Store
from learner.dataset import build_dataset
from learner.registry import register
from tests.learner.test_registry import a_draft, an_adapter
from tests.learner.traffic import ROUTE, a_config, judged_traffic, version_of


def test_the_report_says_that_the_judge_is_uncalibrated(
    tmp_path: Path, clean_store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    config = a_config(tmp_path)
    judged_traffic(clean_store, config, 90)
    draft = msgspec.structs.replace(a_draft(ROUTE), dataset=build_dataset(config, ROUTE, clean_store).dataset)
    adapter = an_adapter(tmp_path / "adapter")
    snapshot = register(paths_of(config).snapshots, adapter, draft, clean_store).snapshot
    report = Report(
        route=ROUTE,
        variants=[],
        gains=[],
        lineage=lineage(clean_store, snapshot),
        requests=0,
        app_errors=0,
        gateway_added_p95_ms_in_training=None,
        seconds={},
        cost_ratio=None,
    )
    print_report(report)
    assert f"judge       kept {version_of(config)}, uncalibrated" in capsys.readouterr().out

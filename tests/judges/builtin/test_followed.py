from __future__ import annotations

import json
from pathlib import Path

from gateway.traces.store import Store
from tests.support.judging import add, judged, some_traces, wait_for


def test_a_changed_schema_file_is_a_new_version_that_judges_everything(
    clean_store: Store, embedded_config_path: Path, tmp_path: Path, start_runner
):
    traces = some_traces(5, response='{"choices": [{"message": {"content": "[1]"}}]}')
    add(clean_store, *traces)
    schema = tmp_path / "list.json"
    schema.write_text(json.dumps({"type": "array"}))
    config = tmp_path / "tracetune.yaml"
    config.write_text(
        embedded_config_path.read_text()
        + "judges:\n  - {name: good, path: 'builtin:json_schema', options: {schema_file: list.json}}\n"
    )
    runner = start_runner(config)
    wait_for(lambda: list(judged(clean_store).values()) == [1.0] * 5)
    schema.write_text(json.dumps({"type": "arrays"}))
    wait_for(lambda: runner.said("builtin:json_schema: option 'schema': not a JSON Schema") == 1)
    schema.write_text(json.dumps({"type": "object"}))

    def scores() -> set[tuple[float, int]]:
        rows = clean_store.query(
            "SELECT version, avg(score) AS mean, count() AS n FROM judgments GROUP BY version"
        )
        return {(row["mean"], row["n"]) for row in rows}

    wait_for(lambda: scores() == {(1.0, 5), (0.0, 5)})

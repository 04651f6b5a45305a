from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.traces.store import Store
from learner.errors import LearnerError, LearnerRefusedError
from learner.registry import (
    ADAPTER_CONFIG,
    MANIFEST,
    WEIGHTS,
    check_servable,
    list_snapshots,
    load_snapshot,
    register,
    snapshot_id,
    verify_snapshot,
)
from learner.types import SnapshotManifest

AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SETTINGS = {"r": 16, "target_modules": ["v_proj", "q_proj"], "base_model_name_or_path": "/somewhere/base"}


def a_draft(route: str = "ticket-bot") -> SnapshotManifest:
    return SnapshotManifest(
        snapshot="",
        route=route,
        kind="adapter",
        files={},
        base_model="base",
        base_digest="0" * 64,
        recipe=None,
        training=None,
        run=None,
        dataset=None,
        judges={"kept": "abc"},
        parents=[],
        evaluation={},
        created_at=AT,
    )


def an_adapter(folder: Path, weights: bytes = b"weights", **settings: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(weights)
    (folder / ADAPTER_CONFIG).write_text(json.dumps(SETTINGS | settings))
    return folder


def test_the_same_content_is_the_same_snapshot_and_other_weights_are_another(tmp_path: Path) -> None:
    root = tmp_path / "snapshots"
    first = register(root, an_adapter(tmp_path / "a"), a_draft())
    again = register(
        root, an_adapter(tmp_path / "b", target_modules=["q_proj", "v_proj"]), a_draft()
    )  # the order of PEFT's sets means nothing
    other = register(root, an_adapter(tmp_path / "c", weights=b"others"), a_draft())
    assert first == again
    assert first.snapshot != other.snapshot
    assert {manifest.snapshot for manifest in list_snapshots(root)} == {first.snapshot, other.snapshot}
    assert [path.name for path in root.iterdir() if path.name.startswith(".")] == []


def test_the_id_is_the_route_and_a_hash_of_everything_else(tmp_path: Path) -> None:
    manifest = register(tmp_path / "snapshots", an_adapter(tmp_path / "a"), a_draft("team/bot"))
    assert manifest.snapshot == snapshot_id(manifest)
    assert manifest.snapshot.startswith("team-bot-")
    assert len(manifest.snapshot) == len("team-bot-") + 12


def test_no_path_of_this_machine_is_in_a_snapshot(tmp_path: Path) -> None:
    manifest = register(tmp_path / "snapshots", an_adapter(tmp_path / "a"), a_draft())
    folder = tmp_path / "snapshots" / manifest.snapshot
    assert json.loads((folder / ADAPTER_CONFIG).read_text())["base_model_name_or_path"] == "base"


@pytest.mark.parametrize("name", [WEIGHTS, ADAPTER_CONFIG, MANIFEST])
def test_verify_catches_one_flipped_bit_in_any_file(tmp_path: Path, name: str) -> None:
    root = tmp_path / "snapshots"
    snapshot = register(root, an_adapter(tmp_path / "a"), a_draft()).snapshot
    assert verify_snapshot(root, snapshot).snapshot == snapshot
    path = root / snapshot / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    with pytest.raises(LearnerError, match=name):
        verify_snapshot(root, snapshot)


def test_verify_catches_a_missing_file_and_one_that_was_added(tmp_path: Path) -> None:
    root = tmp_path / "snapshots"
    snapshot = register(root, an_adapter(tmp_path / "a"), a_draft()).snapshot
    (root / snapshot).chmod(0o755)
    (root / snapshot / "extra.bin").write_bytes(b"")
    with pytest.raises(LearnerError, match=r"extra.bin: does not belong"):
        verify_snapshot(root, snapshot)
    (root / snapshot / "extra.bin").unlink()
    (root / snapshot / WEIGHTS).unlink()
    with pytest.raises(LearnerError, match=f"{WEIGHTS}: is missing"):
        verify_snapshot(root, snapshot)


def test_verify_catches_a_snapshot_under_another_name(tmp_path: Path) -> None:
    root = tmp_path / "snapshots"
    snapshot = register(root, an_adapter(tmp_path / "a"), a_draft()).snapshot
    (root / snapshot).rename(root / "ticket-bot-000000000000")
    with pytest.raises(LearnerError, match="does not hash to"):
        verify_snapshot(root, "ticket-bot-000000000000")


def test_files_of_a_snapshot_are_read_only(tmp_path: Path) -> None:
    root = tmp_path / "snapshots"
    snapshot = register(root, an_adapter(tmp_path / "a"), a_draft()).snapshot
    modes = {path.name: path.stat().st_mode & 0o777 for path in (root / snapshot).iterdir()}
    assert modes == {WEIGHTS: 0o444, ADAPTER_CONFIG: 0o444, MANIFEST: 0o444}


def test_what_a_kill_left_half_written_is_not_listed(tmp_path: Path) -> None:
    root = tmp_path / "snapshots"
    left = root / ".ticket-bot.1.work"
    left.mkdir(parents=True)
    (left / MANIFEST).write_text("{}")
    assert list_snapshots(root) == []
    register(root, an_adapter(tmp_path / "a"), a_draft())
    assert left.exists(), "process 1 lives"
    left.rename(root / ".ticket-bot.4194305.work")  # above the highest process id there can be
    register(root, an_adapter(tmp_path / "a"), a_draft())
    assert [path.name for path in root.iterdir() if path.name.startswith(".")] == []


def test_an_unknown_snapshot_names_those_that_there_are(tmp_path: Path) -> None:
    root = tmp_path / "snapshots"
    snapshot = register(root, an_adapter(tmp_path / "a"), a_draft()).snapshot
    for name in ("ticket-bot-1", "../snapshots", ""):
        with pytest.raises(LearnerError, match=f"known: {snapshot}"):
            load_snapshot(root, name)


@pytest.mark.parametrize(
    ("setting", "value", "names"),
    [
        ("r", 12, "rank 12"),
        ("use_dora", True, "use_dora"),
        ("init_lora_weights", "pissa", "pissa"),
        ("modules_to_save", ["embed_tokens"], "modules_to_save"),
        ("target_modules", ["q_proj", "lm_head"], "lm_head"),
    ],
)
def test_what_an_inference_server_cannot_load_is_refused(setting: str, value: object, names: str) -> None:
    with pytest.raises(LearnerRefusedError, match=names):
        check_servable(SETTINGS | {setting: value})


def test_a_registered_snapshot_has_one_row_however_often_it_is_registered(
    tmp_path: Path, clean_store: Store
) -> None:
    root = tmp_path / "snapshots"
    for _ in range(2):
        manifest = register(root, an_adapter(tmp_path / "a"), a_draft(), clean_store)
    rows = clean_store.query("SELECT snapshot, route, kind, parents, created_at FROM snapshots")
    assert rows == [
        {
            "snapshot": manifest.snapshot,
            "route": "ticket-bot",
            "kind": "adapter",
            "parents": [],
            "created_at": AT,
        }
    ]

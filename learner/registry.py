"""Snapshots on disk: immutable, content-addressed, verified.

`paths.snapshots/ID/` holds the adapter and snapshot.json. It is published by one rename of a finished,
read-only folder: it is there whole or not at all.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.traces.types import SnapshotRow
from learner.base_model import base_model_digest
from learner.errors import LearnerError, LearnerRefusedError
from learner.files import content_digest, read_json, sha256_of, slug, write_bytes, write_json
from learner.types import SnapshotManifest

if TYPE_CHECKING:
    from gateway.traces.store import Store

MANIFEST = "snapshot.json"
WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
SERVABLE_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM can load
_ID_DIGITS = 12


def register(
    root: Path, adapter: Path, draft: SnapshotManifest, store: Store | None = None
) -> SnapshotManifest:
    """Make *adapter* (PEFT's folder) a snapshot under *root*; with *store*, record its row. Safe to repeat.

    `snapshot` and `files` of *draft* are filled in; the same content has the same id. Raises
    LearnerRefusedError for an adapter that vLLM could not serve, LearnerError when something is missing or
    the disk is full.
    """
    settings = portable_config(adapter, draft.base_model)
    check_servable(settings)
    work = root / f".{slug(draft.route)}.{os.getpid()}.work"
    try:
        _remove_leftovers(root)
        work.mkdir(parents=True)
        write_json(work / ADAPTER_CONFIG, settings)
        write_bytes(work / WEIGHTS, (adapter / WEIGHTS).read_bytes())
        files = {name: sha256_of(work / name) for name in (ADAPTER_CONFIG, WEIGHTS)}
        manifest = msgspec.structs.replace(draft, files=files)
        manifest = msgspec.structs.replace(manifest, snapshot=snapshot_id(manifest))
        write_json(work / MANIFEST, manifest)
        _publish(work, root / manifest.snapshot)
    except OSError as error:
        raise LearnerError(f"{root}: the snapshot cannot be written: {error.strerror or error}") from error
    if store is not None:
        store.insert("snapshots", [row_of(manifest)], token=f"snapshot-{manifest.snapshot}")
    return manifest


def snapshot_id(manifest: SnapshotManifest) -> str:
    """`<route>-<12 hex>` of a hash over every other field; files are in it by their digests."""
    return _id_of(manifest.route, msgspec.to_builtins(manifest))


def load_snapshot(root: Path, snapshot: str) -> SnapshotManifest:
    """The manifest of *snapshot*, not verified. Raises LearnerError when there is none."""
    if slug(snapshot) != snapshot or not (root / snapshot / MANIFEST).is_file():
        known = ", ".join(manifest.snapshot for manifest in list_snapshots(root)) or "none"
        raise LearnerError(f"no snapshot {snapshot!r}; known: {known}")
    return read_json(root / snapshot / MANIFEST, SnapshotManifest)


def list_snapshots(root: Path, route: str | None = None) -> list[SnapshotManifest]:
    """All snapshots (of *route*), oldest first. A folder that is being written is not listed."""
    manifests = [read_json(path, SnapshotManifest) for path in root.glob(f"[!.]*/{MANIFEST}")]
    listed = [manifest for manifest in manifests if route is None or manifest.route == route]
    return sorted(listed, key=lambda manifest: (manifest.created_at, manifest.snapshot))


def verify_snapshot(root: Path, snapshot: str, base_model: Path | None = None) -> SnapshotManifest:
    """Recompute everything: the id, every file's digest, and the base model's if its directory is given.

    Raises LearnerError naming the first thing that differs. A verified snapshot is what its id says it is.
    """
    manifest = load_snapshot(root, snapshot)
    folder = root / snapshot
    # Of the document itself, not of what this version reads in it: fields may come and go, ids may not.
    document = read_json(folder / MANIFEST, dict[str, Any])
    if manifest.snapshot != snapshot or _id_of(manifest.route, document) != snapshot:
        raise LearnerError(f"{folder / MANIFEST}: was changed: its content does not hash to {snapshot}")
    present = {path.name for path in folder.iterdir()}
    expected = {MANIFEST, *manifest.files}
    if present != expected:
        odd = min(present ^ expected)
        what = "is missing" if odd in expected else "does not belong to the snapshot"
        raise LearnerError(f"{folder / odd}: {what}; snapshot {snapshot} cannot be trusted")
    for name, digest in manifest.files.items():
        if sha256_of(folder / name) != digest:
            raise LearnerError(f"{folder / name}: was changed: its sha256 is not the recorded one")
    if base_model is not None and base_model_digest(base_model) != manifest.base_digest:
        raise LearnerError(
            f"{base_model}: is not the base model that snapshot {snapshot} was trained on "
            f"({manifest.base_model})"
        )
    return manifest


def check_servable(settings: dict[str, Any]) -> None:
    """Raise LearnerRefusedError, naming the setting, for an adapter that an inference server cannot load."""
    rank = settings.get("r")
    if rank not in SERVABLE_RANKS:
        allowed = ", ".join(map(str, SERVABLE_RANKS))
        raise LearnerRefusedError(f"the adapter's rank {rank} cannot be served; choose one of {allowed}")
    if settings.get("init_lora_weights", True) not in {True, False, "gaussian"}:
        raise LearnerRefusedError(
            f"init_lora_weights {settings['init_lora_weights']!r} changes the base and cannot be served"
        )
    for name in (
        "use_dora",
        "lora_bias",
        "use_qalora",
        "layer_replication",
        "modules_to_save",
        "alora_invocation_tokens",
    ):
        if settings.get(name):
            raise LearnerRefusedError(f"an adapter with {name} cannot be served; train a plain LoRA")
    targets = settings.get("target_modules") or []
    for name in ("lm_head", "embed_tokens"):
        if name in targets:
            raise LearnerRefusedError(f"an adapter on {name} cannot be served; target the linear layers only")


def portable_config(adapter: Path, base_model: str) -> dict[str, Any]:
    """The adapter's configuration, lists sorted, the base model by name: no machine's paths, one digest."""
    settings: dict[str, Any] = read_json(adapter / ADAPTER_CONFIG, dict[str, Any])
    settings["base_model_name_or_path"] = base_model
    targets = settings.get("target_modules")
    if isinstance(targets, list):
        settings["target_modules"] = sorted(targets)  # PEFT writes a set, in any order
    return dict(sorted(settings.items()))


def row_of(manifest: SnapshotManifest) -> SnapshotRow:
    """The snapshot's row in the store."""
    return SnapshotRow(
        snapshot=manifest.snapshot,
        route=manifest.route,
        kind=manifest.kind,
        base_model=manifest.base_model,
        dataset=manifest.dataset or "",
        parents=manifest.parents,
        evaluation=msgspec.json.encode(manifest.evaluation).decode(),
        created_at=manifest.created_at,
    )


def _id_of(route: str, document: dict[str, Any]) -> str:
    content = {name: value for name, value in document.items() if name != "snapshot"}
    return f"{slug(route)}-{content_digest(content)[:_ID_DIGITS]}"


def _remove_leftovers(root: Path) -> None:
    """Remove what registrations left that were killed; those of living processes stay."""
    for path in root.glob(".*.work"):
        pid = int(path.name.split(".")[-2])
        if pid == os.getpid() or not _lives(pid):
            shutil.rmtree(path)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _publish(work: Path, target: Path) -> None:
    """Rename *work* to *target*, its files read-only; an equal snapshot that is there already stays."""
    if target.is_dir():
        shutil.rmtree(work)
        return
    for path in work.iterdir():
        path.chmod(0o444)
    work.rename(target)

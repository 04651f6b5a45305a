"""A deliberately spoilt snapshot: the promoted adapter with its learnt directions shuffled.

It loads, it serves, it has an honest lineage, and its answers are worthless: what a rollback must catch.
"""

from __future__ import annotations

import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
from safetensors.numpy import load_file, save_file

from gateway.traces.store import Store
from learner.registry import ADAPTER_CONFIG, WEIGHTS, load_snapshot, register
from learner.types import SnapshotManifest

SEED = 13
STRENGTH = 4.0  # of the noise, in standard deviations of the weights it replaces


def spoil(root: Path, snapshot: str, store: Store) -> SnapshotManifest:
    """Register a spoilt copy of *snapshot* under *root*; its parent is *snapshot*."""
    manifest = load_snapshot(root, snapshot)
    chance = np.random.default_rng(SEED)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        weights = load_file(root / snapshot / WEIGHTS)
        for name, values in weights.items():
            if "lora_B" in name:
                noise = chance.normal(0.0, STRENGTH * float(values.std()) + 1e-3, values.shape)
                weights[name] = noise.astype(values.dtype)
        save_file(weights, folder / WEIGHTS)
        shutil.copyfile(root / snapshot / ADAPTER_CONFIG, folder / ADAPTER_CONFIG)
        draft = msgspec.structs.replace(
            manifest,
            recipe=None,
            training=None,
            run=None,
            dataset=None,
            parents=[snapshot],
            created_at=datetime.now(UTC),
            evaluation={"note": "weights replaced by noise on purpose, to show a rollback"},
        )
        return register(root, folder, draft, store)

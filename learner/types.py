"""What the learner's stages hand to each other on disk. Frozen; unknown is None, never 0; times are UTC."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from gateway.traces.encryption.key_source import KeySource
from gateway.traces.types import Feedback, Trace
from judges.standing import Standing


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """One training row and the traces it came from. Messages are OpenAI's, their content text."""

    traces: list[str]
    prompt: list[dict[str, str]]
    completion: list[dict[str, str]]
    score: float


class HoldoutRow(msgspec.Struct, frozen=True, kw_only=True):
    """One held-out trace: its prompt, what a judge needs to judge another answer, and its own score."""

    trace: Trace
    feedback: list[Feedback]
    prompt: list[dict[str, str]]
    score: float
    slice: str  # "rest", or TAG=VALUE of the holdout tag it carries


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a dataset holds, how it was chosen, and why everything else was left out."""

    dataset: str
    route: str
    judge: str
    judge_version: str
    min_score: float
    judged: int  # traces with a score; abstentions are not among them
    examples: int
    holdout: int
    slices: dict[str, int]  # of the holdout
    left_out: dict[str, int]  # by reason
    sessions: int
    groups: int  # of sessions and near-duplicates that must stay on one side
    first_trace_at: datetime | None
    last_trace_at: datetime | None
    options: dict[str, Any]
    files: dict[str, str]  # name -> sha256 of its rows, before they were encrypted
    created_at: datetime
    standing: Standing | None = None  # of the judge, when it was built; None: from before judges had one


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """All that decides the weights, besides the rows and the base model."""

    method: Literal["sft"]
    epochs: float
    learning_rate: float
    batch_size: int
    lora_rank: int
    lora_alpha: int
    max_tokens: int
    seed: int
    threads: int | None = None


class TrainPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The input of one training script, frozen in the run's folder."""

    route: str
    dataset: str
    dataset_dir: Path
    base_model: Path
    base_digest: str
    recipe: Recipe
    checkpoint_steps: int
    keys: KeySource | None = None  # of an encrypted dataset


class TrainResult(msgspec.Struct, frozen=True, kw_only=True):
    """What training came to. `adapter` is the sha256 of its weights, `loss` the mean of the last steps."""

    adapter: str
    device: str
    rows: int
    over_length: int  # rows left out because they exceed recipe.max_tokens
    steps: int
    tokens: int  # seen in training, prompt tokens included
    seconds: float  # of this process; a resumed run counts from its last checkpoint
    loss: float
    libraries: dict[str, str]
    finished_at: datetime


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Where a long step stands."""

    stage: str
    done: int
    total: int
    updated_at: datetime
    loss: float | None = None
    tokens_per_s: float | None = None
    eta_s: float | None = None


class SnapshotManifest(msgspec.Struct, frozen=True, kw_only=True):
    """`snapshot.json`: what a snapshot is made of and where it comes from. Its id hashes all other fields.

    `recipe`, `training`, `run` and `dataset` are None for an adapter that was not trained here.
    """

    snapshot: str
    route: str
    kind: Literal["adapter"]
    files: dict[str, str]  # name -> sha256
    base_model: str  # the directory's name; where it lies is the business of each machine
    base_digest: str
    recipe: Recipe | None
    training: TrainResult | None
    run: str | None
    dataset: str | None
    judges: dict[str, str]  # name -> version
    parents: list[str]
    evaluation: dict[str, Any]
    created_at: datetime

"""From judged traces to an immutable dataset: train.jsonl, holdout.jsonl and a manifest of all the rest."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from gateway.config import Config, LearnerConfig
from gateway.paths import paths_of
from gateway.traces.bodies.bodies import Bodies, Owner
from gateway.traces.store import Store
from gateway.traces.types import DatasetRow
from judges.standing import Standing
from judges.trace import stored_row
from learner.errors import LearnerError, LearnerRefusedError
from learner.files import content_digest, jsonl, read_json, slug, write_bytes, write_json
from learner.read import JudgedRows, count_judged, read_judged
from learner.refusal import forget_refusal, save_refusal
from learner.rows import Line, lines, owner_of
from learner.runtime import check_installed
from learner.select import (
    ABSTAINED,
    DUPLICATE,
    HOLDOUT_FULL,
    LOW_SCORE,
    NOT_JUDGED,
    TOO_LONG,
    WITHHELD,
    Candidate,
    why_unusable,
)
from learner.settings import MIN_EXAMPLES, MIN_HOLDOUT, learner_of
from learner.split import Unit, near_duplicates, slice_of, split
from learner.standing import check_may, standing_of_version
from learner.types import Example, HoldoutRow, Manifest

# What to do about too few winners, by the commonest reason that traces were left out for.
_REMEDIES = {
    DUPLICATE: "send traffic that differs more",
    NOT_JUDGED: "wait for the judge, or see `tracetune judge list`",
    ABSTAINED: "look at the judge, or report what was kept",
}

log = logging.getLogger(__name__)


def build_dataset(config: Config, route: str, store: Store) -> Manifest:
    """Build the dataset of *route* from what its judge has scored, and record it. Same traces, same id.

    Raises LearnerRefusedError, with the numbers, while its judge may not train or there is too little to
    learn from or to hold out, and LearnerError when it cannot be written. A refusal for want of traces is
    kept for `tracetune status`.
    """
    entry = learner_of(config, route)
    rows = read_judged(config, entry, store)
    standing = standing_of_version(config, entry, rows.judge_version, store)
    check_may(standing, "train")
    runs = paths_of(config).runs
    try:
        candidates, left_out = usable(rows)
        check_judged(entry, len(candidates), left_out)
        check_installed("datasketch")
        manifest, train, holdout = assemble(entry, rows, candidates, left_out, standing)
        check_enough(manifest)
    except LearnerRefusedError as error:
        save_refusal(runs, entry, count_judged(config, entry, store), str(error))
        raise
    forget_refusal(runs, entry)
    owners = {candidate.trace.trace_id: owner_of(candidate.trace) for candidate in candidates}
    publish(paths_of(config).datasets, manifest, train, holdout, owners, store.bodies)
    record(store, manifest)
    return manifest


def usable(rows: JudgedRows) -> tuple[list[Candidate], Counter[str]]:
    """The traces that may be learnt from, and why the others are left out. Pure."""
    left_out: Counter[str] = Counter({TOO_LONG: rows.too_long})
    candidates: list[Candidate] = []
    for trace in rows.traces:
        reason = WITHHELD if trace.trace_id in rows.withheld else why_unusable(trace)
        score = rows.scores.get(trace.trace_id)
        if reason is None and trace.trace_id not in rows.scores:
            reason = NOT_JUDGED
        elif reason is None and score is None:
            reason = ABSTAINED
        if reason is not None:
            left_out[reason] += 1
            continue
        assert score is not None
        candidates.append(Candidate.of(trace, score))
    return candidates, left_out


def assemble(
    entry: LearnerConfig,
    rows: JudgedRows,
    candidates: Sequence[Candidate],
    left_out: Mapping[str, int],
    standing: Standing,
) -> tuple[Manifest, list[Example], list[HoldoutRow]]:
    """Decide where each of *candidates* goes. Pure but for the clock in `created_at`."""
    options = entry.dataset
    left_out = Counter(left_out)
    sides = split(
        [
            Unit(
                trace_id=candidate.trace.trace_id,
                session=candidate.session,
                text=candidate.text,
                tagged=slice_of(candidate.trace.tags, options.holdout_tags) != "rest",
            )
            for candidate in candidates
        ],
        holdout=options.holdout,
        similar=near_duplicates([candidate.text for candidate in candidates]),
    )
    train = _examples([c for c in candidates if c.trace.trace_id in sides.train], options.min_score, left_out)
    holdout = _holdout([c for c in candidates if c.trace.trace_id in sides.holdout], entry, left_out)
    files = {"train.jsonl": jsonl(train), "holdout.jsonl": jsonl(holdout)}
    times = [candidate.trace.started_at for candidate in candidates]
    manifest = Manifest(
        dataset="",
        route=entry.route,
        judge=entry.judge,
        judge_version=rows.judge_version,
        min_score=options.min_score,
        judged=len(candidates),
        examples=len(train),
        holdout=len(holdout),
        slices=dict(sorted(Counter(row.slice for row in holdout).items())),
        left_out={reason: count for reason, count in sorted(left_out.items()) if count},
        sessions=len({candidate.session for candidate in candidates}),
        groups=sides.groups,
        first_trace_at=min(times, default=None),
        last_trace_at=max(times, default=None),
        options=msgspec.to_builtins(options),
        files={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        created_at=datetime.now(UTC),
        standing=standing,
    )
    name = f"{slug(entry.route)}-{dataset_digest(manifest)[:12]}"
    return msgspec.structs.replace(manifest, dataset=name), train, holdout


def dataset_digest(manifest: Manifest) -> str:
    """Hex sha256 over what a dataset holds and how it was chosen; when it was built is no part of it.

    Nor are the numbers of the judge's calibration: the same rows are not another dataset for one label more.
    """
    content = msgspec.to_builtins(manifest)
    del content["dataset"], content["created_at"], content["standing"]
    if manifest.standing is not None:
        content["standing"] = [manifest.standing.state, manifest.standing.accepted]
    return content_digest(content)


def check_judged(entry: LearnerConfig, judged: int, left_out: Mapping[str, int]) -> None:
    """Raise LearnerRefusedError with the numbers while fewer than `min_traces` traces are judged."""
    if judged < entry.dataset.min_traces:
        raise LearnerRefusedError(
            f"route {entry.route!r}: {judged} of {entry.dataset.min_traces} judged traces by {entry.judge!r}"
            f"{_mostly(left_out)}; send more traffic, or lower learner.dataset.min_traces"
        )


def check_enough(manifest: Manifest) -> None:
    """Raise LearnerRefusedError with the numbers while there is too little to train on or to hold out."""
    place = f"route {manifest.route!r}"
    if manifest.examples < MIN_EXAMPLES:
        raise LearnerRefusedError(
            f"{place}: {manifest.examples} of {MIN_EXAMPLES} winners (score at least "
            f"{manifest.min_score:g}) among {manifest.judged} judged traces{_mostly(manifest.left_out)}; "
            f"{_remedy(manifest)}"
        )
    if manifest.holdout < MIN_HOLDOUT:
        raise LearnerRefusedError(
            f"{place}: {manifest.holdout} of {MIN_HOLDOUT} traces to hold out, from {manifest.sessions} "
            f"sessions in {manifest.groups} groups; send more sessions, or raise learner.dataset.holdout"
        )


def publish(
    root: Path,
    manifest: Manifest,
    train: Sequence[Example],
    holdout: Sequence[HoldoutRow],
    owners: Mapping[str, Owner],
    bodies: Bodies,
) -> None:
    """Put the dataset's folder in place, whole or not at all. Nothing happens when it is there already.

    Each row is under the key of the *owners* of the first trace that it came from, where bodies are.
    """
    target = root / manifest.dataset
    if (target / "manifest.json").is_file():
        return
    work = root / f".{manifest.dataset}.work"
    try:
        shutil.rmtree(work, ignore_errors=True)
        trained = [Line(example.traces, owners[example.traces[0]], example) for example in train]
        held_out = [Line([row.trace.trace_id], owners[row.trace.trace_id], row) for row in holdout]
        write_bytes(work / "train.jsonl", lines("train.jsonl", trained, bodies))
        write_bytes(work / "holdout.jsonl", lines("holdout.jsonl", held_out, bodies))
        write_json(work / "manifest.json", manifest)
        work.rename(target)
    except OSError as error:
        raise LearnerError(f"{target}: cannot be written: {error.strerror or error}") from error


def load_manifest(root: Path, dataset: str) -> Manifest:
    """The manifest of a dataset. Raises LearnerError when there is none."""
    return read_json(root / dataset / "manifest.json", Manifest)


def record(store: Store, manifest: Manifest) -> None:
    """The dataset's row; safe to repeat."""
    row = DatasetRow(
        dataset=manifest.dataset,
        route=manifest.route,
        manifest=msgspec.json.encode(manifest).decode(),
        examples=manifest.examples,
        holdout=manifest.holdout,
        created_at=manifest.created_at,
    )
    store.insert("datasets", [row], token=f"dataset-{manifest.dataset}")


def _examples(candidates: Sequence[Candidate], min_score: float, left_out: Counter[str]) -> list[Example]:
    """Winners, oldest first, equal prompt and answer once."""
    unique: dict[bytes, Example] = {}
    for candidate in candidates:
        if candidate.score < min_score:
            left_out[LOW_SCORE] += 1
            continue
        example = candidate.example()
        key = msgspec.json.encode((example.prompt, example.completion))
        if key in unique:
            left_out[DUPLICATE] += 1
            unique[key] = msgspec.structs.replace(unique[key], traces=[*unique[key].traces, *example.traces])
        else:
            unique[key] = example
    return list(unique.values())


def _holdout(
    candidates: Sequence[Candidate], entry: LearnerConfig, left_out: Counter[str]
) -> list[HoldoutRow]:
    """Winners and losers, oldest first; above the bound, those whose trace id hashes lowest."""
    options = entry.dataset
    drawn = sorted(candidates, key=lambda c: hashlib.sha256(c.trace.trace_id.encode()).digest())
    kept = {candidate.trace.trace_id for candidate in drawn[: options.max_holdout]}
    left_out[HOLDOUT_FULL] += len(candidates) - len(kept)
    return [
        HoldoutRow(
            trace=stored_row(candidate.trace),
            feedback=list(candidate.trace.feedback),
            prompt=candidate.prompt,
            score=candidate.score,
            slice=slice_of(candidate.trace.tags, options.holdout_tags),
        )
        for candidate in candidates
        if candidate.trace.trace_id in kept
    ]


def _commonest(left_out: Mapping[str, int]) -> tuple[str, int]:
    """The commonest reason that traces were left out for, and how many; none is ("", 0)."""
    return max(left_out.items(), key=lambda item: item[1], default=("", 0))


def _mostly(left_out: Mapping[str, int]) -> str:
    reason, count = _commonest(left_out)
    return f" ({count} more: {reason})" if count else ""


def _remedy(manifest: Manifest) -> str:
    return _REMEDIES.get(
        _commonest(manifest.left_out)[0], "lower learner.dataset.min_score or look at the judge"
    )

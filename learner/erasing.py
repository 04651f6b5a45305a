"""Takes erased traces out of what was learnt from: `python -m learner.erasing --config FILE --erasure ID`.

A dataset keeps its id and its manifest, which say what it was; `erased.json` beside them says what it lost,
and to which erasure. Weights cannot lose a row: snapshots that learnt from one are retired, and trained again
without it. Prints what it did as JSON; every step may be repeated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from gateway.config import Config, load_config
from gateway.errors import OperationError, TracetuneError
from gateway.paths import paths_of
from gateway.traces.bodies.reads import local_reader
from gateway.traces.erasure.erase import TouchedDataset, TouchedSnapshot, Unlearnt
from gateway.traces.erasure.erasures import ErasureList
from gateway.traces.store import Store, open_store
from gateway.traces.types import RolloutEvent
from learner.errors import LearnerError
from learner.evaluation import Evaluation
from learner.files import locked, read_json, sha256_of, write_bytes, write_json
from learner.registry import list_snapshots
from learner.runs import Run, list_runs, run_lock, save_run, unfinished_run
from learner.states import EVENTS_SQL, Event, snapshot_states
from learner.types import Manifest, SnapshotManifest

ERASED = "erased.json"
WHY_FAILED = "its dataset lost rows that were erased; the next run builds a dataset without them"
_ROWS = ("train.jsonl", "holdout.jsonl")
_RETIRED_SQL = "SELECT count() AS n FROM rollouts WHERE event = 'retired' AND snapshot = {snapshot:String}"
_LAST_SQL = """
SELECT version, evidence FROM rollouts WHERE route = {route:String} ORDER BY version DESC, at DESC LIMIT 1
"""


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """Rows that a dataset lost to one erasure."""

    erasure: str
    at: datetime
    train: int
    holdout: int


class Losses(msgspec.Struct, frozen=True, kw_only=True):
    """`erased.json`: what a dataset lost, and the sha256 of its files since."""

    losses: list[Loss]
    files: dict[str, str] = {}


class _OfTrace(msgspec.Struct, frozen=True):
    trace_id: str


class _Row(msgspec.Struct, frozen=True, kw_only=True):
    """What any row of a dataset or a run says of where it came from."""

    traces: list[str] = []
    trace: _OfTrace | None = None
    trace_id: str | None = None

    def comes_from(self, traces: frozenset[str]) -> bool:
        named = [*self.traces, *([self.trace.trace_id] if self.trace else []), self.trace_id]
        return any(trace in traces for trace in named)


class _Evidence(msgspec.Struct, frozen=True):
    table: list[msgspec.Raw] = []


def unlearn(config: Config, store: Store, erasure: str) -> Unlearnt:
    """Take the traces of *erasure*, an entry of the list, out of datasets and runs, and retire snapshots.

    Raises LearnerError for a damaged file, StoreError, OperationError for an unknown erasure.
    """
    paths = paths_of(config)
    traces = _traces_of(config, erasure)
    touched: list[TouchedDataset] = []
    at_work: list[str] = []
    for folder in sorted(path.parent for path in paths.datasets.glob("[!.]*/manifest.json")):
        found = _lost_before(folder, erasure) or _rows_from(folder, traces)
        if not found:
            continue
        route = read_json(folder / "manifest.json", Manifest).route
        try:
            with locked(run_lock(paths.runs, route), holder=f"a run of route {route!r} is"):
                _fail_runs(paths.runs, route, folder.name)
        except LearnerError:
            at_work.append(route)
        touched.append(forget_in_dataset(folder, traces, erasure, datetime.now(UTC)))
        for run in _folders_of(paths.runs, folder.name):
            forget_in_run(run, traces)
    at_work += _building(config, paths.runs, at_work)
    return Unlearnt(datasets=touched, snapshots=_retire(config, store, erasure), at_work=sorted(set(at_work)))


def forget_in_dataset(folder: Path, traces: frozenset[str], erasure: str, now: datetime) -> TouchedDataset:
    """Rewrite the rows of a dataset without those of *traces*, having put down how many it loses."""
    left = {name: _split(folder / name, traces) for name in _ROWS}
    known = _losses(folder)
    before = next((loss for loss in known.losses if loss.erasure == erasure), None)
    lost = {name: removed for name, (_, removed) in left.items()}
    # Killed between two files, a repetition finds less than there was.
    loss = Loss(
        erasure=erasure,
        at=before.at if before else now,
        train=max(lost["train.jsonl"], before.train if before else 0),
        holdout=max(lost["holdout.jsonl"], before.holdout if before else 0),
    )
    losses = [*(other for other in known.losses if other.erasure != erasure), loss]
    write_json(folder / ERASED, Losses(losses=losses, files=known.files))
    for name, (content, removed) in left.items():
        if removed:
            write_bytes(folder / name, content)
    files = {name: sha256_of(folder / name) for name in _ROWS}
    write_json(folder / ERASED, Losses(losses=losses, files=files))
    return TouchedDataset(dataset=folder.name, train=loss.train, holdout=loss.holdout)


def forget_in_run(folder: Path, traces: frozenset[str]) -> None:
    """Remove from a run's folder what *traces* said, and what was answered to them."""
    for path in folder.glob("answers-*.jsonl"):
        content, removed = _split(path, traces)
        if removed:
            write_bytes(path, content)
    # It quotes the dataset, and is made again of what is left of it.
    (folder / "generate.json").unlink(missing_ok=True)
    path = folder / "evaluation.json"
    if path.is_file():
        evaluation = read_json(path, Evaluation)
        shown = {
            name: [one for one in getattr(evaluation, name) if one.trace_id not in traces]
            for name in ("wins", "losses")
        }
        write_json(path, msgspec.structs.replace(evaluation, **shown))


def check_whole(folder: Path, since: datetime) -> None:
    """Raise LearnerError where the dataset lost rows after *since*: what was learnt of it knows them."""
    if any(loss.at >= since for loss in _losses(folder).losses):
        raise LearnerError(f"{folder.name}: {WHY_FAILED}")


def is_retired(store: Store, snapshot: str) -> bool:
    """Whether *snapshot* was retired because what it learnt from was erased."""
    return bool(store.query(_RETIRED_SQL, {"snapshot": snapshot})[0]["n"])


def tainted(snapshots: Sequence[SnapshotManifest], datasets: Iterable[str]) -> list[SnapshotManifest]:
    """Those of *snapshots* that learnt from one of *datasets*, or go back to one that did. Pure."""
    lost = set(datasets)
    found: dict[str, SnapshotManifest] = {}
    for _ in snapshots:  # a line of descent is no longer than that
        for manifest in snapshots:
            if manifest.dataset in lost or any(parent in found for parent in manifest.parents):
                found[manifest.snapshot] = manifest
    return list(found.values())


def _retire(config: Config, store: Store, erasure: str) -> list[TouchedSnapshot]:
    """Retire what learnt from erased rows, but for what serves: that is a person's decision, and is told."""
    paths = paths_of(config)
    snapshots = list_snapshots(paths.snapshots)
    losses = {path.parent.name: _losses(path.parent).losses for path in paths.datasets.glob(f"*/{ERASED}")}
    lost = {name for name, of in losses.items() if any(loss.train for loss in of)}
    now_lost = {name for name in lost if any(loss.erasure == erasure for loss in losses[name])}
    events = [msgspec.convert(row, Event) for row in store.query(EVENTS_SQL)]
    states = snapshot_states([manifest.snapshot for manifest in snapshots], events)
    serving = _serving(config)
    news = {manifest.snapshot for manifest in tainted(snapshots, now_lost)}
    touched = []
    for manifest in tainted(snapshots, lost):
        name, state = manifest.snapshot, states[manifest.snapshot]
        serves = state in {"stable", "canary"} or name in serving
        if not serves and not is_retired(store, name):
            _record_retired(store, manifest, erasure)
            state = "retired"
        if serves or name in news:
            touched.append(TouchedSnapshot(snapshot=name, route=manifest.route, state=state, serves=serves))
    return touched


def _record_retired(store: Store, manifest: SnapshotManifest, erasure: str) -> None:
    last = store.query(_LAST_SQL, {"route": manifest.route})
    # The table that is in force is read from the last event: it stays what it was.
    table = msgspec.json.decode(last[0]["evidence"], type=_Evidence).table if last else []
    reader = local_reader()
    event = RolloutEvent(
        rollout=erasure,
        route=manifest.route,
        version=last[0]["version"] if last else 0,
        event="retired",
        snapshot=manifest.snapshot,
        at=datetime.now(UTC),
        who=f"{reader.who}@{reader.host}",
        why="it learnt from traces that were erased",
        evidence=msgspec.json.encode({"table": table} if last else {}).decode(),
    )
    store.insert("rollouts", [event], token=f"{erasure}-{manifest.snapshot}")


def _serving(config: Config) -> set[str]:
    """Snapshots that the configuration itself names."""
    names: set[str | None] = set()
    for route in config.routes:
        names |= {variant.snapshot for variant in route.variants}
        names |= {None if isinstance(one, str) else one.snapshot for one in route.fallbacks}
    return {name for name in names if name is not None}


def _building(config: Config, runs: Path, known: Sequence[str]) -> list[str]:
    """Other routes whose run is just building a dataset: what it has read may be erased meanwhile."""
    found = []
    for entry in config.learner:
        if entry.route in known or unfinished_run(runs, entry) is not None:
            continue
        try:
            with locked(run_lock(runs, entry.route), holder="a run is"):
                pass
        except LearnerError:
            found.append(entry.route)
    return found


def _fail_runs(runs: Path, route: str, dataset: str) -> None:
    """A run that was killed would go on with what it has learnt of rows that are erased."""
    for run in list_runs(runs, route):
        if run.dataset == dataset and run.stage not in {"done", "failed"}:
            save_run(runs, run, stage="failed", error=WHY_FAILED)


def _folders_of(runs: Path, dataset: str) -> list[Path]:
    states = [(path.parent, read_json(path, Run)) for path in runs.glob("[!.]*/run.json")]
    return [folder for folder, run in states if run.dataset == dataset]


def _split(path: Path, traces: frozenset[str]) -> tuple[bytes, int]:
    """The lines of *path* that come from none of *traces*, and how many do."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if not msgspec.json.decode(line, type=_Row).comes_from(traces)]
    except OSError as error:
        raise LearnerError(f"{path}: cannot be read: {error.strerror or error}") from error
    except msgspec.DecodeError as error:
        raise LearnerError(f"{path}: damaged: {error}") from error
    return b"".join(kept), len(lines) - len(kept)


def _rows_from(folder: Path, traces: frozenset[str]) -> bool:
    return any(_split(folder / name, traces)[1] for name in _ROWS)


def _lost_before(folder: Path, erasure: str) -> bool:
    return any(loss.erasure == erasure for loss in _losses(folder).losses)


def _losses(folder: Path) -> Losses:
    path = folder / ERASED
    return read_json(path, Losses) if path.is_file() else Losses(losses=[])


def _traces_of(config: Config, erasure: str) -> frozenset[str]:
    for entry in ErasureList(paths_of(config).state).entries():
        if entry.erasure == erasure:
            return frozenset(entry.traces)
    raise OperationError(f"no erasure {erasure!r} in {paths_of(config).state / 'erasures.json'}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; what it did as JSON on standard output."""
    parser = argparse.ArgumentParser(prog="python -m learner.erasing")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--erasure", required=True)
    arguments = parser.parse_args(argv)
    try:
        config = load_config(arguments.config)
        with open_store(config) as store:
            done = unlearn(config, store, arguments.erasure)
    except TracetuneError as error:
        sys.stderr.write(f"learner.erasing: {error}\n")
        return error.exit_code
    sys.stdout.buffer.write(msgspec.json.encode(done) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

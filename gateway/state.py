"""What one gateway worker holds in memory: the table in force and everything that a request needs with it.

A request takes `state.live` once, when it arrives, and finishes on it, whatever is swapped in meanwhile.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from gateway.config.secrets import Secrets, UpstreamSecrets, read_secrets
from gateway.config.types import Config
from gateway.data_plane.auth import ClientKeys
from gateway.data_plane.plan import Planner
from gateway.paths import Paths, paths_of
from gateway.quotas import Account, Ledger, QuotaFiles, save_last
from gateway.table import Table
from gateway.traces.types import Captured, Outcome
from gateway.upstream.deadlines import Sweeper
from gateway.upstream.pool import UpstreamPool


class TraceWriter(Protocol):
    """Takes captured records into shared memory (`gateway.traces.segments.SegmentWriter`)."""

    dropped: dict[str, int]  # by reason

    def append(self, captured: Captured, request: bytes = b"", response: Sequence[bytes] = ()) -> bool: ...

    def full(self) -> bool: ...

    def close(self) -> None: ...


class Metrics(Protocol):
    """What the data plane reports. A call costs a few microseconds and never raises.

    Names of routes, variants and upstreams come from the configuration or the table ("" for a model that no
    route serves), operations, outcomes and reasons from fixed sets: no client can invent a label.
    """

    def request_started(self) -> None: ...

    def request_finished(
        self,
        route: str,
        variant: str,
        operation: str,
        outcome: Outcome,
        *,
        upstream_s: float,
        overhead_s: float,
        ttft_s: float | None,
    ) -> None:
        """`overhead_s` is the gateway's own time: the request's, less waiting for upstreams and pauses."""

    def attempt_failed(self, upstream: str, reason: str) -> None: ...

    def cost_unknown(self, route: str, variant: str) -> None:
        """A request was answered whose trace nobody keeps, so that nobody reads what it used."""


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """What is in force, swapped as a whole. `keys` None: no keys are asked for."""

    config: Config
    table: Table
    keys: ClientKeys | None
    planner: Planner
    accounts: dict[str, Account]  # of the keys that have limits, by name
    pools: dict[str, UpstreamPool]  # by upstream name


class State:
    """One worker's state. `swap` is the only thing that changes what requests see."""

    def __init__(
        self,
        *,
        config_path: Path,
        config: Config,
        table: Table,
        salt: bytes,
        writer: TraceWriter,
        metrics: Metrics,
        index: int = 0,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.config_path = config_path
        self.paths: Paths = paths_of(config)
        self.salt = salt
        self.writer = writer
        self.metrics = metrics
        self.index = index
        self.environ = environ
        self.sweeper = Sweeper()
        self.started_at = time.time()
        self.in_flight = 0
        self.concurrent = config.listen.concurrent  # of all workers, as it was when this one started
        self.most_in_flight = -(-config.listen.concurrent // config.listen.workers)
        self.ledger = Ledger(QuotaFiles.of(self.paths))
        self.draining = False  # SIGTERM came: requests in flight finish, new ones are refused
        self.live = self._build(config, table, read_secrets(config, environ), {})

    def swap(self, config: Config, table: Table, secrets: Secrets | None = None) -> None:
        """Put *config* and *table* in force at once; requests in flight finish on the former ones.

        Secrets are read again unless given. Raises ConfigError when one is missing, OperationError when the
        limits of keys cannot be counted, and then nothing changed.
        Connections to upstreams whose settings did not change are kept.
        """
        secrets = secrets or read_secrets(config, self.environ)
        former = self.live
        self.live = self._build(config, table, secrets, former.pools)
        for name, pool in former.pools.items():
            if self.live.pools.get(name) is not pool:
                pool.retire()

    def swap_table(self, table: Table) -> None:
        """Put *table* in force at once, under the configuration in force."""
        live = self.live
        planner = Planner(table, self.salt, live.config)
        self.live = msgspec.structs.replace(live, table=table, planner=planner)

    def close(self) -> None:
        """Close upstream connections, counters and the segment. Call when no request is in flight."""
        for pool in self.live.pools.values():
            pool.retire()
        save_last(self.ledger, time.time())
        self.ledger.close()
        self.writer.close()

    def _build(
        self, config: Config, table: Table, secrets: Secrets, former: Mapping[str, UpstreamPool]
    ) -> Live:
        pools: dict[str, UpstreamPool] = {}
        for upstream in config.upstreams:
            own = secrets.upstreams.get(upstream.name, UpstreamSecrets())
            pool = former.get(upstream.name)
            if pool is None or not pool.serves(upstream, own, config.listen.workers):
                pool = UpstreamPool(
                    upstream,
                    own,
                    workers=config.listen.workers,
                    sweeper=self.sweeper,
                    worker=self.index,
                    machines=self.paths.machines,
                )
            pools[upstream.name] = pool
        keys = ClientKeys(config.auth, secrets) if config.auth is not None else None
        return Live(
            config=config,
            table=table,
            keys=keys,
            planner=Planner(table, self.salt, config),
            accounts=self.ledger.accounts(config.auth),
            pools=pools,
        )

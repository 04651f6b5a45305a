"""What a person may write in `tracetune.yaml`, as frozen types. A typo is an error, never a default.

Cross references (does this variant's upstream exist?) are checked in `gateway.config.check`, secrets are read
in `gateway.config.secrets`, paths are made absolute in `gateway.config.load`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

Fraction = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(gt=0)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Scope = Literal["infer", "feedback", "pin", "admin", "approve"]
Period = Literal["minute", "hour", "day", "month"]

_WEIGHT_TOLERANCE = 1e-9
_JUDGE_PATH = re.compile(r"^.+\.py:[A-Za-z_][A-Za-z0-9_]*$")


def _shown(url: str) -> str:
    """*url* for a message: without what may be a secret in it."""
    return re.sub(r"//[^/@]*@", "//…@", url.partition("?")[0].partition("#")[0])


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of everything a person writes: an unknown field is an error that names the field and the place."""


class Secret(Strict, frozen=True, kw_only=True):
    """Where a secret is, never the secret: exactly one of an environment variable and a file."""

    env: str | None = None
    file: Path | None = None

    def __post_init__(self) -> None:
        if (self.env is None) == (self.file is None):
            raise ValueError("a secret is either {env: NAME} or {file: PATH}")


class Listen(Strict, frozen=True, kw_only=True):
    """An address to listen on. `workers` is the number of gateway processes that share it."""

    host: str = "127.0.0.1"
    port: Port = 8080
    workers: Annotated[int, Meta(ge=1, le=64)] = 1
    max_body_bytes: Annotated[int, Meta(ge=1)] = 32 * 1024 * 1024  # of one request
    drain_s: Seconds = 10  # running requests may take this long to finish after SIGTERM


class AdminListen(Strict, frozen=True, kw_only=True):
    """A separate address for the control API, the dashboard and the metrics."""

    host: str = "127.0.0.1"
    port: Port = 8081


class Store(Strict, frozen=True, kw_only=True):
    """Where traces are kept: `embedded:DIR`, or `clickhouse[+https]://user@host:port/database`."""

    url: str = "embedded:./data"
    password: Secret | None = None
    cluster: str | None = None
    retention_days: Annotated[int, Meta(ge=1)] | None = None
    memory_bytes: Annotated[int, Meta(ge=500_000_000)] = 2_000_000_000  # bound of the embedded store

    def __post_init__(self) -> None:
        scheme = urlsplit(self.url).scheme
        if scheme not in {"embedded", "clickhouse", "clickhouse+http", "clickhouse+https"}:
            raise ValueError(
                f"store url begins with {scheme!r}; it must with embedded:, clickhouse:// or clickhouse+https://"
            )
        if scheme != "embedded" and urlsplit(self.url).password is not None:
            raise ValueError("a password in the store url is a literal secret; use password: {env: NAME}")

    @property
    def embedded(self) -> bool:
        return self.url.startswith("embedded:")


class Capture(Strict, frozen=True, kw_only=True):
    """The way of a trace from the worker to the store. Bounds are in bytes."""

    spool: Path | None = None  # default: spool/ in the data directory
    fsync: Literal["never", "interval", "always"] = "interval"
    max_bytes: Annotated[int, Meta(ge=1_000_000)] = 2_000_000_000
    memory_bytes: Annotated[int, Meta(ge=1_000_000)] = 256_000_000
    at_bound: Literal["drop_oldest", "drop_newest", "refuse"] = "drop_oldest"


class Privacy(Strict, frozen=True, kw_only=True):
    """What happens to text before it reaches a disk."""

    redact: Literal["builtin", "none"] = "builtin"
    encrypt: Literal["none", "per_subject"] = "none"
    master_key: Secret | None = None


class KeyLimit(Strict, frozen=True, kw_only=True):
    """What a key may use in one calendar minute, hour, day or month of UTC, all workers together.

    Each request reserves what it may use before it is sent, and settles what it did use afterwards.
    With `usd`, a model without a price is refused.
    """

    per: Period
    requests: Annotated[int, Meta(ge=1, le=10**15)] | None = None
    tokens: Annotated[int, Meta(ge=1, le=10**15)] | None = None  # read and written, added up
    usd: Annotated[float, Meta(ge=0.000001, le=10**9)] | None = None

    def __post_init__(self) -> None:
        if self.requests is None and self.tokens is None and self.usd is None:
            raise ValueError(f"a limit per {self.per} needs at least one of requests, tokens and usd")


class ClientKey(Strict, frozen=True, kw_only=True):
    """A key a client may come with, what it may do, on which routes (absent: all), and how much of it."""

    name: Name
    key: Secret
    scopes: list[Scope] = msgspec.field(default_factory=lambda: ["infer", "feedback"])
    routes: list[str] | None = None
    limits: list[KeyLimit] = []

    def __post_init__(self) -> None:
        periods = [limit.per for limit in self.limits]
        if len(periods) != len(set(periods)):
            raise ValueError(
                f"key {self.name!r} has two limits for one period: {periods}; write one for both"
            )


class Auth(Strict, frozen=True, kw_only=True):
    """Client keys. Without this section no keys are asked for and only loopback may be listened on."""

    keys: list[ClientKey]


class Price(Strict, frozen=True, kw_only=True):
    """USD per million tokens. `cached_input` defaults to `input`."""

    model: Name
    input: Annotated[float, Meta(ge=0)]
    output: Annotated[float, Meta(ge=0)]
    cached_input: Annotated[float, Meta(ge=0)] | None = None


class Timeouts(Strict, frozen=True, kw_only=True):
    """Deadlines of one attempt at one upstream, in seconds; `total_s` bounds the whole request."""

    connect_s: Seconds = 5
    headers_s: Seconds = 60
    first_token_s: Seconds = 60
    idle_s: Seconds = 30
    total_s: Seconds = 600


class Retries(Strict, frozen=True, kw_only=True):
    """At most `max` more attempts, and at most `budget` of the recent requests."""

    max: Annotated[int, Meta(ge=0, le=10)] = 2
    budget: Fraction = 0.2


class Limits(Strict, frozen=True, kw_only=True):
    """Requests at one upstream at a time, and how many may wait for their turn."""

    concurrent: Annotated[int, Meta(ge=1)] = 1000
    queue: Annotated[int, Meta(ge=0)] = 1000


class Managed(Strict, frozen=True, kw_only=True):
    """An inference server that `tracetune up` runs itself on the upstream's base_url."""

    engine: Literal["peft", "vllm"]
    model: Path
    args: list[str] = []


class Upstream(Strict, frozen=True, kw_only=True):
    """One or more servers that speak the OpenAI API."""

    name: Name
    base_url: str | None = None
    base_urls: list[str] | None = None
    api_key: Secret | None = None
    default: bool = False
    prices: list[Price] = []
    price_per_hour: Annotated[float, Meta(ge=0)] | None = None
    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    limits: Limits = Limits()
    managed: Managed | None = None
    passthrough: list[Literal["audio", "images", "moderations", "files", "batches", "fine_tuning"]] = []

    def __post_init__(self) -> None:
        if (self.base_url is None) == (not self.base_urls):
            raise ValueError(f"upstream {self.name!r} needs exactly one of base_url and base_urls")
        for url in self.servers:
            parts = urlsplit(url)
            if parts.scheme not in {"http", "https"} or not parts.hostname:
                raise ValueError(f"upstream {self.name!r}: {_shown(url)!r} is not an http(s) URL")
            if parts.username or parts.password:
                raise ValueError(f"upstream {self.name!r}: credentials in a URL are a literal secret")
            if parts.query or parts.fragment:
                raise ValueError(f"upstream {self.name!r}: {_shown(url)!r} must end with its path")
            try:
                _ = parts.port
            except ValueError as error:
                raise ValueError(f"upstream {self.name!r}: {_shown(url)!r}: {error}") from error
        models = [price.model for price in self.prices]
        if len(models) != len(set(models)):
            raise ValueError(f"upstream {self.name!r} prices a model twice: {models}")

    @property
    def servers(self) -> list[str]:
        """Base URLs of this upstream's servers, without a trailing slash."""
        urls = self.base_urls or ([self.base_url] if self.base_url else [])
        return [url.rstrip("/") for url in urls]


class Variant(Strict, frozen=True, kw_only=True):
    """One weighted arm of a route: an upstream, and a model name or a snapshot there."""

    name: Name
    upstream: Name
    model: Name | None = None
    snapshot: Name | None = None
    weight: Fraction = 1.0
    stable: bool = False

    def __post_init__(self) -> None:
        if (self.model is None) == (self.snapshot is None):
            raise ValueError(f"variant {self.name!r} needs exactly one of model and snapshot")

    @property
    def served_model(self) -> str:
        """The model name its upstream knows it by."""
        name = self.model or self.snapshot
        assert name is not None
        return name


class Fallback(Strict, frozen=True, kw_only=True):
    """Where a request goes when its variant cannot answer before the first content byte."""

    upstream: Name
    model: Name | None = None
    snapshot: Name | None = None
    larger_context: bool = False

    def __post_init__(self) -> None:
        if (self.model is None) == (self.snapshot is None):
            raise ValueError("a fallback needs exactly one of model and snapshot")


class Margins(Strict, frozen=True, kw_only=True):
    """How much worse than stable a candidate may be.

    Quality in score points (0.03 is three points of a hundred), latency and cost as fractions of stable's.
    """

    quality: Fraction = 0.03
    latency: Annotated[float, Meta(ge=0)] = 0.1
    cost: Annotated[float, Meta(ge=0)] = 0.1


class RolloutPolicy(Strict, frozen=True, kw_only=True):
    """How a candidate earns its traffic. Frozen into a rollout when it starts."""

    preset: Literal["quality-first", "cost-first", "balanced"] = "balanced"
    autonomy: Literal["observe", "ask", "auto"] = "ask"
    alpha: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    harm_alpha: Annotated[float, Meta(gt=0, lt=1)] = 0.01
    margins: Margins = Margins()
    steps: list[Annotated[float, Meta(gt=0, lt=1)]] = msgspec.field(
        default_factory=lambda: [0.01, 0.05, 0.1, 0.25, 0.5]
    )
    step_units: Annotated[int, Meta(ge=1)] = 50  # candidate sessions at one step before the next
    min_units: Annotated[int, Meta(ge=1)] = 50  # candidate sessions before a promotion
    max_units: Annotated[int, Meta(ge=1)] = 20_000  # sessions of both arms before it ends inconclusive
    latency_budget_s: Seconds | None = None  # p95 bound in place of the latency margin
    judge: Name | None = None  # default: the route's learner's judge, else the first judge
    # A session's outcome is what happened within window_s of its first request; it counts settle_s
    # later, when slow answers and their judgments have arrived, in both arms alike.
    window_s: Seconds = 300
    settle_s: Seconds = 30

    def __post_init__(self) -> None:
        if not self.steps or sorted(self.steps) != self.steps:
            raise ValueError(f"rollout steps must rise: {self.steps}")


class Route(Strict, frozen=True, kw_only=True):
    """A public model name, its variants and its policy."""

    model: Name
    variants: list[Variant]
    sticky_by: Literal["session", "subject", "request"] = "session"
    fallbacks: list[Fallback | str] = []  # a string names a variant of this route
    capture: Literal["full", "metadata", "none"] = "full"
    rollout: RolloutPolicy = RolloutPolicy()

    def __post_init__(self) -> None:
        if not self.variants:
            raise ValueError(f"route {self.model!r} has no variants")
        if "@" in self.model:
            raise ValueError(f"route {self.model!r}: '@' separates a route from a pinned variant")
        names = [variant.name for variant in self.variants]
        if len(names) != len(set(names)):
            raise ValueError(f"route {self.model!r} names a variant twice: {names}")
        total = sum(variant.weight for variant in self.variants)
        if abs(total - 1) > _WEIGHT_TOLERANCE:
            raise ValueError(f"weights of route {self.model!r} sum to {total:g}, not 1")
        if sum(variant.stable for variant in self.variants) > 1:
            raise ValueError(f"route {self.model!r} marks more than one variant stable")

    @property
    def stable(self) -> Variant:
        """The variant marked stable, else the first."""
        return next((variant for variant in self.variants if variant.stable), self.variants[0])


class JudgeConfig(Strict, frozen=True, kw_only=True):
    """A judge: `path` is FILE.py:FUNCTION. `routes` absent: it judges every route."""

    name: Name
    path: str
    kind: Literal["python"] = "python"
    timeout_s: Seconds = 5
    memory_mb: Annotated[int, Meta(ge=128)] = 4096  # of address space, for the process that runs it
    routes: list[str] | None = None

    def __post_init__(self) -> None:
        if not _JUDGE_PATH.match(self.path):
            raise ValueError(f"judge {self.name!r}: path {self.path!r} is not FILE.py:FUNCTION")

    @property
    def file(self) -> Path:
        return Path(self.path.rpartition(":")[0])

    @property
    def function(self) -> str:
        return self.path.rpartition(":")[2]


class DatasetOptions(Strict, frozen=True, kw_only=True):
    """What a dataset is built from.

    `holdout_tags`: traces with one of these tag values are never trained on, and are reported apart, as a
    slice of the holdout.
    """

    min_traces: Annotated[int, Meta(ge=1)] = 200
    max_traces: Annotated[int, Meta(ge=1)] = 20_000
    holdout: Annotated[float, Meta(gt=0, lt=1)] = 0.2
    min_score: Fraction = 1.0
    holdout_tags: dict[str, str] = {}
    max_holdout: Annotated[int, Meta(ge=1)] = 500


class TrainOptions(Strict, frozen=True, kw_only=True):
    """For experts. Absent values come from `effort`."""

    epochs: Annotated[float, Meta(gt=0)] | None = None
    learning_rate: Annotated[float, Meta(gt=0)] | None = None
    batch_size: Annotated[int, Meta(ge=1)] | None = None
    lora_rank: Literal[1, 8, 16, 32, 64, 128, 256] | None = None
    max_tokens: Annotated[int, Meta(ge=16)] | None = None
    seed: int = 7
    threads: Annotated[int, Meta(ge=1)] | None = None


class EvaluateOptions(Strict, frozen=True, kw_only=True):
    """How snapshots are evaluated: `few_shot` examples in the base model's prompt, to be fair to it."""

    few_shot: Annotated[int, Meta(ge=0, le=32)] = 4
    max_new_tokens: Annotated[int, Meta(ge=1)] = 256
    batch_size: Annotated[int, Meta(ge=1)] = 16


class LearnerConfig(Strict, frozen=True, kw_only=True):
    """What learns on a route. `automatic: false` leaves `learn run` to a person."""

    route: Name
    base_model: Path
    serve_on: Name
    judge: Name
    effort: Literal["quick", "balanced", "max"] = "balanced"
    automatic: bool = True
    cool_down_s: Annotated[float, Meta(ge=0)] = 3600  # from the start of one automatic run to the next
    dataset: DatasetOptions = DatasetOptions()
    train: TrainOptions = TrainOptions()
    evaluate: EvaluateOptions = EvaluateOptions()


class Config(Strict, frozen=True, kw_only=True):
    """The whole file."""

    upstreams: list[Upstream]
    routes: list[Route]
    listen: Listen = Listen()
    admin_listen: AdminListen | None = None
    store: Store = Store()
    capture: Capture = Capture()
    privacy: Privacy = Privacy()
    auth: Auth | None = None
    judges: list[JudgeConfig] = []
    learner: list[LearnerConfig] = []

    def upstream(self, name: str) -> Upstream:
        return next(upstream for upstream in self.upstreams if upstream.name == name)

    def route(self, model: str) -> Route | None:
        return next((route for route in self.routes if route.model == model), None)

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

from gateway.config.base import Fraction, Name, Seconds, Strict, Usd
from gateway.config.judges import JudgeConfig, Judging
from gateway.config.privacy import Pattern, Presidio, check_patterns
from gateway.config.resilience import Ejection, Hedge

Port = Annotated[int, Meta(ge=0, le=65535)]
Scope = Literal["infer", "feedback", "pin", "admin", "approve"]
PassthroughFamily = Literal[
    "audio", "images", "moderations", "files", "batches", "fine_tuning", "responses", "chat/completions"
]
Period = Literal["minute", "hour", "day", "month"]

IMPORTED_VARIANT = "imported"  # under which traces of other tools' logs stand, in tables and aggregates

_WEIGHT_TOLERANCE = 1e-9
_HEADER_NAME = re.compile(r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
_HEADER_VALUE = re.compile(r"^[\x20-\x7e]*$")
_URL = re.compile(r"[\x21-\x7e]+")
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?")
_PATH = re.compile(r"^/?[A-Za-z0-9._~!$&'()*+,;=:@%/{}-]*$")
# We set these ourselves, for the connection's sake.
_RESERVED_HEADERS = frozenset(
    {"connection", "content-length", "expect", "host", "transfer-encoding", "upgrade"}
)
_SECRET_HEADER = re.compile(r"auth|key|token|secret|cookie", re.IGNORECASE)


def _shown(url: str) -> str:
    """*url* for a message: without what may be a secret in it."""
    return re.sub(r"//[^/@]*@", "//…@", url.partition("?")[0].partition("#")[0])


def _check_url(whose: str, url: str, remedy: str = "") -> None:
    """Raise ValueError for what is not an http(s) URL, and *remedy* with it where credentials are in it."""
    # Before it is split: urlsplit drops tabs and line ends without a word.
    if not _URL.fullmatch(url):
        raise ValueError(f"{whose}: {_shown(url)!r} is not an http(s) URL: it must be ASCII without spaces")
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{whose}: {_shown(url)!r} is not an http(s) URL")
    if not _HOST.fullmatch(parts.hostname):
        raise ValueError(f"{whose}: {parts.hostname!r} is no host name")
    if parts.username or parts.password:
        raise ValueError(f"{whose}: credentials in a URL are a literal secret{remedy}")
    if parts.query or parts.fragment:
        raise ValueError(f"{whose}: {_shown(url)!r} must end with its path")
    try:
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"{whose}: {_shown(url)!r}: {error}") from error


class Secret(Strict, frozen=True, kw_only=True):
    """Where a secret is, never the secret: exactly one of an environment variable and a file."""

    env: str | None = None
    file: Path | None = None

    def __post_init__(self) -> None:
        if (self.env is None) == (self.file is None):
            raise ValueError("a secret is either {env: NAME} or {file: PATH}")


class MasterKey(Strict, frozen=True, kw_only=True):
    """Where the master key is: a variable, a file, or a program that wraps and unwraps with it."""

    env: str | None = None
    file: Path | None = None
    command: list[str] | None = None  # run with `wrap` or `unwrap` added, base64 in and base64 out

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.env, self.file, self.command)) != 1 or self.command == []:
            raise ValueError("a master key is one of {env: NAME}, {file: PATH} and {command: [PROGRAM, …]}")


class Listen(Strict, frozen=True, kw_only=True):
    """An address to listen on. `workers` is the number of gateway processes that share it."""

    host: str = "127.0.0.1"
    port: Port = 8080
    workers: Annotated[int, Meta(ge=1, le=64)] = 1
    concurrent: Annotated[int, Meta(ge=1)] = 10_000  # requests at a time, all workers together; more get 503
    max_body_bytes: Annotated[int, Meta(ge=1)] = 32 * 1024 * 1024  # of one request
    max_upload_bytes: Annotated[int, Meta(ge=1)] = 1024 * 1024 * 1024  # of one that is passed through
    head_s: Seconds = 30  # for a request's head to arrive, and for a new connection's first byte
    body_s: Seconds = 30  # for a request's body to arrive
    keep_alive_s: Seconds = 75  # an idle connection is kept this long; longer than common clients keep theirs
    drain_s: Seconds = 10  # running requests may take this long to finish after SIGTERM


class AdminListen(Strict, frozen=True, kw_only=True):
    """A separate address for the control API, the dashboard and the metrics."""

    host: str = "127.0.0.1"
    port: Port = 8081


class Store(Strict, frozen=True, kw_only=True):
    """Where traces are kept: `embedded:DIR`, or `clickhouse[+https]://user@host:port/database`."""

    url: str = "embedded:./data"
    password: Secret | None = None
    cluster: Annotated[str, Meta(min_length=1)] | None = None  # of servers: Replicated and Distributed tables
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
    """The way of a trace from the worker to the store. Bounds are in bytes where no other unit is named."""

    spool: Path | None = None  # default: spool/ in the data directory
    fsync: Literal["never", "interval", "always"] = "interval"
    max_bytes: Annotated[int, Meta(ge=1_000_000)] = 2_000_000_000
    memory_bytes: Annotated[int, Meta(ge=1_000_000)] = 256_000_000
    body_bytes: Annotated[int, Meta(ge=10_000, le=100_000_000)] = 2_000_000  # of one; a longer one is cut
    max_age_days: Annotated[float, Meta(gt=0)] = 7
    quarantine_bytes: Annotated[int, Meta(ge=1_000_000)] = 100_000_000
    at_bound: Literal["drop_oldest", "drop_newest", "refuse"] = "drop_oldest"


class Privacy(Strict, frozen=True, kw_only=True):
    """What happens to text before it reaches a disk."""

    redact: Literal["builtin", "presidio", "none"] = "builtin"  # presidio: the built-in rules, and names
    rules_off: list[str] = []  # of the built-in rules and `patterns`, by their names
    patterns: list[Pattern] = []
    presidio: Presidio = Presidio()
    encrypt: Literal["none", "per_subject"] = "none"
    master_key: MasterKey | None = None  # wraps the keyring; without it nothing encrypted can be read
    former_master_key: MasterKey | None = None  # while master_key is being replaced by another

    def __post_init__(self) -> None:
        check_patterns(self.patterns)


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
    training: bool = True  # false: nothing that comes with this key is ever learnt from

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
    """USD per million tokens. A kind of tokens without a price of its own costs what text does.

    Cached audio is `cached_input`.
    """

    model: Name
    input: Usd
    output: Usd
    cached_input: Usd | None = None  # default: input
    cache_write: Usd | None = None  # default: input
    reasoning: Usd | None = None  # default: output
    audio_input: Usd | None = None  # default: input
    audio_output: Usd | None = None  # default: output


class Timeouts(Strict, frozen=True, kw_only=True):
    """Deadlines of one attempt at one upstream, in seconds; `total_s` bounds the whole request.

    The head of what is not streamed comes with the whole answer, which may take minutes: it has `headers_s`.
    That of a stream has `first_token_s` where this is shorter, and so has the first token after it.
    """

    connect_s: Seconds = 5
    headers_s: Seconds = 300
    first_token_s: Seconds = 60
    idle_s: Seconds = 30
    total_s: Seconds = 600


class RouteTimeouts(Strict, frozen=True, kw_only=True):
    """Deadlines of one route, in place of its upstreams'."""

    connect_s: Seconds | None = None
    headers_s: Seconds | None = None
    first_token_s: Seconds | None = None
    idle_s: Seconds | None = None
    total_s: Seconds | None = None

    def over(self, upstream: Timeouts) -> Timeouts:
        """The deadlines of *upstream* with those of the route in place of theirs."""
        own = {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not None}
        return msgspec.structs.replace(upstream, **own)


class Retries(Strict, frozen=True, kw_only=True):
    """At most `max` more attempts, and at most `budget` of the recent requests."""

    max: Annotated[int, Meta(ge=0, le=10)] = 2
    budget: Fraction = 0.2


class Limits(Strict, frozen=True, kw_only=True):
    """Requests at one upstream at a time, and how many may wait for their turn."""

    concurrent: Annotated[int, Meta(ge=1)] = 1000
    queue: Annotated[int, Meta(ge=0)] = 1000


class FixedHeader(Strict, frozen=True, kw_only=True):
    """A header of every request to an upstream: a `value`, or a `secret`. The client's own is replaced."""

    name: Name
    value: str | None = None
    secret: Secret | None = None

    def __post_init__(self) -> None:
        if not _HEADER_NAME.match(self.name) or self.name.lower() in _RESERVED_HEADERS:
            raise ValueError(f"{self.name!r} is no header that can be set")
        if (self.value is None) == (self.secret is None):
            raise ValueError(f"header {self.name!r} needs exactly one of value and secret")
        if self.value is not None and _SECRET_HEADER.search(self.name):
            raise ValueError(
                f"header {self.name!r} looks like a secret; write secret: {{env: NAME}} in place of value"
            )
        if self.value is not None and not _HEADER_VALUE.match(self.value):
            raise ValueError(f"header {self.name!r} has characters that no header can carry")


class FixedQuery(Strict, frozen=True, kw_only=True):
    """A query parameter of every request to an upstream. The client's own is replaced."""

    name: Name
    value: str


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
    price_per_hour: Usd | None = None  # of all its servers together; outranks `prices`
    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    limits: Limits = Limits()
    ejection: Ejection = Ejection()
    affinity: Literal["none", "prefix"] = "none"  # prefix: what begins alike goes to one server
    hedge: Hedge | None = None  # absent: no second requests
    managed: Managed | None = None
    auth_header: Name = "authorization"  # where api_key goes: as `Bearer KEY` in this one, bare in any other
    headers: list[FixedHeader] = []
    query: list[FixedQuery] = []
    path: str = "{path}"  # what follows base_url; Azure: /deployments/{model}{path}
    passthrough: list[
        PassthroughFamily
    ] = []  # of endpoints that are not routed; only of the default upstream
    transport: Literal["native", "httpx"] = "native"  # httpx is slower, and speaks to proxies and HTTP/2
    proxy: str | None = None  # an egress proxy; none is ever taken from the environment
    proxy_auth: Secret | None = None  # USER:PASSWORD there
    http2: bool = False
    trusted: bool = False  # may be shown the text of routes that are `private`
    usage_in_streams: bool = True  # ask it for the tokens of streams; false: it refuses `stream_options`

    def __post_init__(self) -> None:
        self._check_request()
        if (self.base_url is None) == (not self.base_urls):
            raise ValueError(f"upstream {self.name!r} needs exactly one of base_url and base_urls")
        for url in self.servers:
            _check_url(f"upstream {self.name!r}", url)
        models = [price.model for price in self.prices]
        if len(models) != len(set(models)):
            raise ValueError(f"upstream {self.name!r} prices a model twice: {models}")
        if self.hedge is not None and len(self.servers) < 2:
            raise ValueError(
                f"upstream {self.name!r}: hedge asks a second server; name several in base_urls, or remove it"
            )
        self._check_transport()

    def _check_transport(self) -> None:
        if self.transport != "httpx" and (self.proxy is not None or self.http2):
            raise ValueError(f"upstream {self.name!r}: proxy and http2 need transport: httpx")
        if self.proxy is None:
            if self.proxy_auth is not None:
                raise ValueError(f"upstream {self.name!r}: proxy_auth needs proxy")
            return
        remedy = "; write proxy_auth: {env: NAME}, with USER:PASSWORD in NAME"
        _check_url(f"proxy of upstream {self.name!r}", self.proxy, remedy)
        if self.http2 and any(urlsplit(url).scheme == "http" for url in self.servers):
            raise ValueError(
                f"upstream {self.name!r}: through a proxy only https is spoken with HTTP/2; remove http2"
            )

    def _check_request(self) -> None:
        if not _HEADER_NAME.match(self.auth_header) or self.auth_header.lower() in _RESERVED_HEADERS:
            raise ValueError(f"upstream {self.name!r}: auth_header {self.auth_header!r} is no header")
        names = [header.name.lower() for header in self.headers]
        if len(names) != len(set(names)):
            raise ValueError(f"upstream {self.name!r} sets a header twice: {names}")
        if self.api_key is not None and self.auth_header.lower() in names:
            raise ValueError(f"upstream {self.name!r}: api_key goes into {self.auth_header!r} already")
        rest = self.path.replace("{path}", "", 1).replace("{model}", "")
        if "{path}" not in self.path or not _PATH.match(self.path) or "{" in rest or "}" in rest:
            raise ValueError(
                f"upstream {self.name!r}: path {self.path!r} must hold {{path}} once, may hold {{model}}, "
                "and else only what a URL's path can"
            )

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
        if self.name == IMPORTED_VARIANT:
            raise ValueError(f"a variant cannot be called {self.name!r}: imported traces stand under it")

    @property
    def served_model(self) -> str:
        """The model name its upstream knows it by."""
        name = self.model or self.snapshot
        assert name is not None
        return name


class Fallback(Strict, frozen=True, kw_only=True):
    """Where a request goes when its variant cannot answer before the first content byte.

    One with `larger_context` may also answer a request that was too long for the variant's model.
    """

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
    timeouts: RouteTimeouts = RouteTimeouts()
    capture: Literal["full", "metadata", "none"] = "full"
    capture_bodies: Fraction = 1.0  # the share of sessions whose bodies are kept, of `capture: full`
    rules_off: list[str] | None = None  # of redaction, in place of `privacy.rules_off`
    private: bool = False  # judges show its text to no upstream that is not `trusted`
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
    judging: Judging = Judging()
    learner: list[LearnerConfig] = []

    def upstream(self, name: str) -> Upstream:
        return next(upstream for upstream in self.upstreams if upstream.name == name)

    def route(self, model: str) -> Route | None:
        return next((route for route in self.routes if route.model == model), None)

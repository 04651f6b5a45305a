"""A configuration that cannot be used is one line that names the file, the place and the remedy."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gateway.config import Ejection, Hedge, KeyLimit, load_config
from gateway.config.secrets import read_secrets
from gateway.errors import ConfigError

UPSTREAM = "upstreams: [{name: a, base_url: http://127.0.0.1:1/v1, default: true}]\n"
HTTPX = UPSTREAM.replace("default", "transport: httpx, default")
KEY = "auth: {keys: [{name: web, key: {env: A}, limits: [%s]}]}\n"
ROUTE = "routes: [{model: m, variants: [{name: s, upstream: a, model: x}]}]\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "tracetune.yaml"
    path.write_text(text)
    return path


def error_of(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text))
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (UPSTREAM + ROUTE.replace("upstream: a", "upstream: a, weigth: 1"), "unknown field `weigth` - at `$.routes[0].variants[0]`; known: weight"),
        (UPSTREAM + ROUTE.replace("upstream: a", "upstream: b"), "unknown upstream 'b'; known: a - at `$.routes[0].variants[0].upstream`"),
        (UPSTREAM + ROUTE.replace("model: x", "model: x, weight: 0.4"), "weights of route 'm' sum to 0.4, not 1 - at `$.routes[0]`"),
        (UPSTREAM + ROUTE.replace("model: x", "model: x, weight: on"), "Expected `float`, got `bool`"),
        (UPSTREAM + ROUTE.replace("model: x", "model: x, snapshot: y"), "exactly one of model and snapshot"),
        (UPSTREAM + ROUTE.replace("name: s", "name: imported"), "a variant cannot be called 'imported': imported traces stand under it"),
        (UPSTREAM + ROUTE + UPSTREAM, "key 'upstreams' is repeated"),
        (UPSTREAM.replace("default", "api_key: sk-literal, default") + ROUTE, "a literal secret is refused; write {env: NAME}"),
        (UPSTREAM + ROUTE + "listen: {host: 0.0.0.0}\n", "listen.host 0.0.0.0 is not loopback and there are no keys"),
        (UPSTREAM + ROUTE + "store: {cluster: main}\n", "the embedded store is one server and has no cluster"),
        (UPSTREAM + ROUTE + "privacy: {encrypt: per_subject}\n", "encrypt: per_subject needs a master key; write master_key: {env: NAME}"),
        (UPSTREAM.replace("default: true", "passthrough: [audio]") + ROUTE, "mark 'a' default, or remove it - at `$.upstreams[0].passthrough`"),
        (UPSTREAM.replace("default", "headers: [{name: x-key, value: v}], default") + ROUTE, "header 'x-key' looks like a secret; write secret: {env: NAME} in place of value - at `$.upstreams[0].headers[0]`"),
        (UPSTREAM.replace("default", 'headers: [{name: x-y, value: "a\\r\\nb"}], default') + ROUTE, "characters that no header can carry"),
        (UPSTREAM.replace("default", "headers: [{name: Host, value: a}], default") + ROUTE, "'Host' is no header that can be set"),
        (UPSTREAM.replace("default", "headers: [{name: x-y}], default") + ROUTE, "needs exactly one of value and secret"),
        (UPSTREAM.replace("default", "headers: [{name: x-y, value: a}, {name: X-Y, value: b}], default") + ROUTE, "sets a header twice"),
        (UPSTREAM.replace("default", "auth_header: 'a b', default") + ROUTE, "auth_header 'a b' is no header"),
        (UPSTREAM.replace("default", "path: '/deployments/{model}', default") + ROUTE, "must hold {path} once"),
        (UPSTREAM.replace("default", "path: '{path}/{other}', default") + ROUTE, "must hold {path} once"),
        (UPSTREAM.replace("default", "ejection: {consecutive: 0}, default") + ROUTE, "Expected `int` >= 1 - at `$.upstreams[0].ejection.consecutive`"),
        (UPSTREAM.replace("default", "ejection: {base_s: 90}, default") + ROUTE, "ejection begins with 90 s and may not exceed 60 s - at `$.upstreams[0].ejection`"),
        (UPSTREAM.replace("default", "affinity: session, default") + ROUTE, "Invalid enum value 'session' - at `$.upstreams[0].affinity`"),
        (UPSTREAM.replace("default", "hedge: {}, default") + ROUTE, "hedge asks a second server; name several in base_urls, or remove it - at `$.upstreams[0]`"),
        (UPSTREAM.replace("default", "hedge: {quantile: 1}, default") + ROUTE, "Expected `float` <= 0.999 - at `$.upstreams[0].hedge.quantile`"),
        (UPSTREAM.replace("default", "hedge: {budget: 0}, default") + ROUTE, "Expected `float` > 0.0 - at `$.upstreams[0].hedge.budget`"),
        (UPSTREAM + ROUTE + "judges: [{name: j, path: j.py}]\n", "path 'j.py' is not FILE.py:FUNCTION"),
        (UPSTREAM + "routes: [{model: m, variants: []}]\n", "route 'm' has no variants"),
        (UPSTREAM + ROUTE + "capture: {at_bound: explode}\n", "Invalid enum value 'explode' - at `$.capture.at_bound`"),
        (UPSTREAM + ROUTE.replace("]}]", "], capture: off}]"), "YAML reads off and no as false, on and yes as true; quote it"),
        (UPSTREAM.replace("1/v1", "99999/v1") + ROUTE, "http://127.0.0.1:99999/v1': Port out of range 0-65535 - at `$.upstreams[0]`"),
        (UPSTREAM.replace("http://127.0.0.1:1/v1", "'http://h h/v1'") + ROUTE, "'http://h h/v1' is not an http(s) URL: it must be ASCII without spaces - at `$.upstreams[0]`"),
        (UPSTREAM.replace("http://127.0.0.1:1/v1", '"http://h\\n/v1"') + ROUTE, "must be ASCII without spaces"),
        (UPSTREAM.replace("http://127.0.0.1:1/v1", "'http://h%20h/v1'") + ROUTE, "'h%20h' is no host name"),
        (UPSTREAM.replace("http://127.0.0.1:1/v1", "'http://h/v1?key=k'") + ROUTE, "must end with its path - at `$.upstreams[0]`"),
        (UPSTREAM.replace("default", "proxy: http://p:1, default") + ROUTE, "proxy and http2 need transport: httpx - at `$.upstreams[0]`"),
        (UPSTREAM.replace("default", "http2: true, default") + ROUTE, "proxy and http2 need transport: httpx"),
        (UPSTREAM.replace("default", "transport: h3, default") + ROUTE, "Invalid enum value 'h3' - at `$.upstreams[0].transport`"),
        (HTTPX.replace("default", "proxy_auth: {env: A}, default") + ROUTE, "proxy_auth needs proxy"),
        (HTTPX.replace("default", "proxy: socks5://p:1, default") + ROUTE, "proxy of upstream 'a': 'socks5://p:1' is not an http(s) URL"),
        (HTTPX.replace("default", "proxy: http://p:99999, default") + ROUTE, "Port out of range"),
        (HTTPX.replace("default", "proxy: http://me:you@p:1, default") + ROUTE, "a literal secret; write proxy_auth: {env: NAME}, with USER:PASSWORD in NAME"),
        (HTTPX.replace("default", "proxy: http://p:1, proxy_auth: me:you, default") + ROUTE, "a literal secret is refused; write {env: NAME}"),
        (HTTPX.replace("default", "proxy: http://p:1, http2: true, default") + ROUTE, "through a proxy only https is spoken with HTTP/2; remove http2"),
        (UPSTREAM + ROUTE + "listen: {port: 8081}\nadmin_listen: {port: 8081}\n", "admin_listen is the address of listen"),
        (UPSTREAM.replace("default: true", "default: true, prices: [{model: m, input: 1, output: 2, audio: 3}]") + ROUTE, "unknown field `audio` - at `$.upstreams[0].prices[0]`; known: audio_input, audio_output"),
        (UPSTREAM.replace("default: true", "default: true, prices: [{model: m, input: 1, output: 2, reasoning: -1}]") + ROUTE, "Expected `float` >= 0.0 - at `$.upstreams[0].prices[0].reasoning`"),
        (UPSTREAM.replace("default: true", "default: true, price_per_hour: .inf") + ROUTE, "Expected `float` <= 1000000.0 - at `$.upstreams[0].price_per_hour`"),
        (UPSTREAM + ROUTE + KEY % "{per: day}", "a limit per day needs at least one of requests, tokens and usd - at `$.auth.keys[0].limits[0]`"),
        (UPSTREAM + ROUTE + KEY % "{per: day, usd: 1}, {per: day, tokens: 9}", "key 'web' has two limits for one period: ['day', 'day']; write one for both - at `$.auth.keys[0]`"),
        (UPSTREAM + ROUTE + KEY % "{per: week, usd: 1}", "Invalid enum value 'week' - at `$.auth.keys[0].limits[0].per`"),
        (UPSTREAM + ROUTE + KEY % "{per: day, requests: 0}", "Expected `int` >= 1 - at `$.auth.keys[0].limits[0].requests`"),
        (UPSTREAM + ROUTE + KEY % "{per: day, usd: .inf}", "Expected `float` <= 1000000000.0 - at `$.auth.keys[0].limits[0].usd`"),
        (UPSTREAM + ROUTE + "rutes: []\n", "unknown field `rutes`; known: routes"),
        (UPSTREAM.replace("default: true", "default: true, api_key: {envv: A}") + ROUTE, "unknown field `envv` - at `$.upstreams[0].api_key`; known: env"),
        (UPSTREAM + ROUTE + "privacy: {zzz: 1}\n", "unknown field `zzz` - at `$.privacy`; known: encrypt, "),
        (UPSTREAM, "missing required field `routes`"),
        ("", "the file is empty"),
        ("upstreams: [", "while parsing"),
        ("- 1\n", "Expected `object`, got `array`"),
    ],
)  # fmt: skip
def test_an_unusable_configuration_is_one_line_with_place_and_reason(
    tmp_path: Path, text: str, expected: str
) -> None:
    message = error_of(tmp_path, text)

    assert expected in message
    assert message.startswith(str(tmp_path / "tracetune.yaml"))
    assert "\n" not in message


@pytest.mark.parametrize(
    "text",
    [
        UPSTREAM.replace("default", "api_key: sk-literal, default"),
        UPSTREAM.replace("default: true}]", "api_key: sk-literal: default]"),  # no YAML either
        "upstreams:\n  - api_key: 'sk-literal\n  - ]",
        UPSTREAM.replace("http://127.0.0.1:1", "ftp://me:sk-literal@h"),
        UPSTREAM.replace("http://127.0.0.1:1", "http://me:sk-literal@h"),
        UPSTREAM.replace("http://127.0.0.1:1/v1", "'http://h/v1?key=sk-literal'"),
        HTTPX.replace("default", "proxy: 'http://me:sk-literal@h', default"),
        HTTPX.replace("default", "proxy: 'ftp://me:sk-literal@h', default"),
        HTTPX.replace("default", "proxy: 'http://p', proxy_auth: 'me:sk-literal', default"),
        UPSTREAM + "store: {url: 'mysql://me:sk-literal@h/d'}\n",
        UPSTREAM + "store: {url: 'clickhouse://me:sk-literal@h/d'}\n",
    ],
)
def test_a_literal_secret_never_shows_in_the_error(tmp_path: Path, text: str) -> None:
    message = error_of(tmp_path, text + ROUTE)

    assert "sk-literal" not in message
    assert "\n" not in message


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; `tracetune init` writes one"):
        load_config(tmp_path / "nowhere.yaml")


def test_relative_paths_resolve_against_the_file(tmp_path: Path) -> None:
    config = load_config(
        write(
            tmp_path, UPSTREAM + ROUTE + 'store: {url: "embedded:./d"}\njudges: [{name: j, path: "j.py:f"}]\n'
        )
    )

    assert f"embedded:{tmp_path}/d" == config.store.url
    assert tmp_path / "d" / "spool" == config.capture.spool
    assert tmp_path / "j.py" == config.judges[0].file


def test_a_server_that_fails_is_ejected_and_no_request_is_doubled_unless_the_file_says_otherwise(
    tmp_path: Path,
) -> None:
    upstream = load_config(write(tmp_path, UPSTREAM + ROUTE)).upstreams[0]

    assert upstream.ejection == Ejection()
    assert upstream.affinity == "none"
    assert upstream.hedge is None


def test_ejection_affinity_and_hedge_are_read(tmp_path: Path) -> None:
    settings = "base_urls: [http://127.0.0.1:1, http://127.0.0.1:2], affinity: prefix, "
    settings += "ejection: {consecutive: 3, cap_s: 5}, hedge: {quantile: 0.9, budget: 0.1, min_delay_s: 1}"
    text = UPSTREAM.replace("base_url: http://127.0.0.1:1/v1", settings) + ROUTE
    upstream = load_config(write(tmp_path, text)).upstreams[0]

    assert upstream.ejection == Ejection(consecutive=3, cap_s=5)
    assert upstream.affinity == "prefix"
    assert upstream.hedge == Hedge(quantile=0.9, budget=0.1, min_delay_s=1)


def test_a_missing_variable_is_named_with_file_and_place_and_no_value(tmp_path: Path) -> None:
    config = load_config(
        write(tmp_path, UPSTREAM.replace("default", "api_key: {env: NO_KEY}, default") + ROUTE)
    )

    with pytest.raises(
        ConfigError, match=r"^a.yaml: .* NO_KEY is not set; export it - at `\$.upstreams\[0\].api_key`"
    ):
        read_secrets(config, {}, Path("a.yaml"))


def test_a_missing_master_key_is_named_before_anything_starts(tmp_path: Path) -> None:
    asked = "privacy: {encrypt: per_subject, master_key: {env: M}}\n"
    config = load_config(write(tmp_path, UPSTREAM + ROUTE + asked))

    with pytest.raises(ConfigError, match=r"variable M is not set; export it - at `\$.privacy.master_key`"):
        read_secrets(config, {})
    assert "planted" not in repr(read_secrets(config, {"M": "planted"}))


def test_credentials_of_a_proxy_are_a_user_and_a_password(tmp_path: Path) -> None:
    proxied = HTTPX.replace("default", "proxy: http://p:1, proxy_auth: {env: P}, default")
    config = load_config(write(tmp_path, proxied + ROUTE))

    assert read_secrets(config, {"P": "me:planted:too"}).upstreams["a"].proxy_auth == "me:planted:too"
    with pytest.raises(ConfigError, match=r"USER:PASSWORD.*`\$.upstreams\[0\].proxy_auth`") as caught:
        read_secrets(config, {"P": "planted"})
    assert "planted" not in str(caught.value)


def test_http2_without_its_extra_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoken = HTTPX.replace("default", "http2: true, default") + ROUTE
    assert load_config(write(tmp_path, spoken)).upstreams[0].http2

    monkeypatch.setitem(sys.modules, "h2", None)
    message = error_of(tmp_path, spoken)

    assert "pip install 'tracetune[http2]' - at `$.upstreams[0].http2`" in message


def test_secrets_that_are_not_used_need_not_be_set(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, UPSTREAM + ROUTE + "store: {password: {env: NOT_SET}}\n"))

    assert read_secrets(config, {}).store_password is None


def test_secrets_never_show_in_their_repr(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, UPSTREAM.replace("default", "api_key: {env: K}, default") + ROUTE))

    found = read_secrets(config, {"K": "planted"})

    assert found.upstreams["a"].key == "planted"
    assert "planted" not in repr(found) + repr(found.upstreams)


def test_two_clients_of_one_key_are_refused_without_showing_it(tmp_path: Path) -> None:
    keys = "auth: {keys: [{name: web, key: {env: A}}, {name: app, key: {env: B}}]}\n"
    config = load_config(write(tmp_path, UPSTREAM + ROUTE + keys))

    with pytest.raises(
        ConfigError, match=r"'web' and 'app' have the same key; .*\$.auth.keys\[1\].key"
    ) as caught:
        read_secrets(config, {"A": "planted", "B": "planted"})
    assert "planted" not in str(caught.value)
    assert read_secrets(config, {"A": "x", "B": "y"}).client_keys == {"web": "x", "app": "y"}


def test_a_key_has_the_limits_that_are_written(tmp_path: Path) -> None:
    limits = "{per: minute, requests: 600, tokens: 200_000}, {per: month, usd: 2.5}"
    config = load_config(write(tmp_path, UPSTREAM + ROUTE + KEY % limits))

    assert config.auth is not None
    assert [
        KeyLimit(per="minute", requests=600, tokens=200_000),
        KeyLimit(per="month", usd=2.5),
    ] == config.auth.keys[0].limits


def test_a_key_without_limits_has_none(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, UPSTREAM + ROUTE + "auth: {keys: [{name: web, key: {env: A}}]}\n"))

    assert config.auth is not None
    assert config.auth.keys[0].limits == []


def test_a_limit_in_money_needs_the_price_of_what_is_asked(tmp_path: Path):
    (tmp_path / "rubric.yaml").write_text("task: t\ncriteria: [{name: a, question: q}]\n")
    path = tmp_path / "tracetune.yaml"
    text = (
        "upstreams: [{name: up, base_url: 'http://127.0.0.1:9/v1', prices: [PRICES]}]\n"
        "routes: [{model: bot, variants: [{name: s, upstream: up, model: m, weight: 1.0}]}]\n"
        "judges:\n"
        "  - {name: polite, kind: llm, rubric: rubric.yaml, upstream: up, model: big, limits: {usd_per_day: 1}}\n"
    )
    path.write_text(text.replace("PRICES", "{model: big, input: 1, output: 2}"))
    assert load_config(path).judges[0].limits.usd_per_day == 1

    path.write_text(text.replace("PRICES", "{model: small, input: 1, output: 2}"))
    with pytest.raises(ConfigError, match=r"upstream 'up' no price of 'big'.*\$\.judges\[0\]\.limits"):
        load_config(path)


@pytest.mark.parametrize("judge", ["path: 'builtin:json_schema', options: {schema_file: PATH}", "path: PATH"])
def test_a_path_that_is_none_is_one_line(tmp_path: Path, judge: str):
    path = tmp_path / "tracetune.yaml"
    path.write_text(
        "upstreams: [{name: up, base_url: 'http://127.0.0.1:9/v1'}]\n"
        "routes: [{model: bot, variants: [{name: s, upstream: up, model: m, weight: 1.0}]}]\n"
        f"judges: [{{name: j, {judge}}}]\n".replace("PATH", '"a\\0b.py:f"')
    )
    with pytest.raises(ConfigError, match="one of its paths is none: embedded null byte"):
        load_config(path)

"""Reads a configuration file: YAML with repeated keys refused, types, cross references, absolute paths."""

from __future__ import annotations

import re
from collections.abc import Hashable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from gateway.config.check import check_references
from gateway.config.fields import known_fields
from gateway.config.judges import JudgeConfig, is_file_option
from gateway.config.privacy import Presidio
from gateway.config.types import Config
from gateway.errors import ConfigError

T = TypeVar("T")

DEFAULT_CONFIG = Path("tracetune.yaml")
MAX_CONFIG_BYTES = 1_000_000
NEAR_FIELDS = 3  # of the known fields, those named for one that is not, where some are spelt like it
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*?)`(?: - at `(.*)`)?$", re.DOTALL)
_SECRET_FIELDS = (
    ".api_key",
    ".key",
    ".password",
    ".master_key",
    ".former_master_key",
    ".secret",
    ".proxy_auth",
)


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys silently; this one refuses."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                line = key_node.start_mark.line + 1
                raise ConfigError(f"line {line}: key {key!r} is repeated; remove one of the two")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def parse_yaml(text: str, kind: type[T], origin: str) -> T:
    """Parse *text* as one *kind*. Raises ConfigError that names *origin*, the place and the reason."""
    try:
        data = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 -- a SafeLoader subclass
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from error
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{origin}: {_where(error)}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: {_one_line(error)}") from error
    except RecursionError as error:
        raise ConfigError(f"{origin}: nested too deeply to be a configuration") from error
    if data is None:
        raise ConfigError(f"{origin}: the file is empty")
    try:
        return msgspec.convert(data, type=kind, dec_hook=_decode_path)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{origin}: {_with_remedy(str(error), kind)}") from error


def load_config(path: Path) -> Config:
    """Read and check the configuration at *path*; relative paths in it resolve against its folder.

    Raises ConfigError with one line naming the file, the place and the remedy. Secrets are not read here.
    """
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes, not a configuration file")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; `tracetune init` writes one, --config names one") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    return parse_config(text, str(path), path.resolve().parent)


def parse_config(text: str, origin: str, base: Path) -> Config:
    """Check *text* as a configuration whose relative paths resolve against *base*.

    Raises ConfigError with one line naming *origin*, the place and the remedy.
    """
    parsed = parse_yaml(text, Config, origin)
    try:
        config = _absolute(parsed, base)
    except ValueError as error:  # a NUL in a path
        raise ConfigError(f"{origin}: one of its paths is none: {error}") from error
    try:
        check_references(config)
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from error
    return config


def _decode_path(kind: type, value: object) -> Path:
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    raise ValueError(f"Expected a path, got {value!r}")


def _absolute(config: Config, base: Path) -> Config:
    store = config.store
    if store.embedded:
        directory = (base / store.url.removeprefix("embedded:")).resolve()
        store = msgspec.structs.replace(store, url=f"embedded:{directory}")
    spool = config.capture.spool or (
        Path(store.url.removeprefix("embedded:")) / "spool" if store.embedded else Path("data/spool")
    )
    return msgspec.structs.replace(
        config,
        store=msgspec.structs.replace(store, password=_secret(store.password, base)),
        capture=msgspec.structs.replace(config.capture, spool=(base / spool).resolve()),
        privacy=msgspec.structs.replace(
            config.privacy,
            master_key=_secret(config.privacy.master_key, base),
            former_master_key=_secret(config.privacy.former_master_key, base),
            presidio=_located(config.privacy.presidio, base),
        ),
        auth=config.auth
        and msgspec.structs.replace(
            config.auth,
            keys=[msgspec.structs.replace(key, key=_secret(key.key, base)) for key in config.auth.keys],
        ),
        upstreams=[
            msgspec.structs.replace(
                upstream,
                api_key=_secret(upstream.api_key, base),
                proxy_auth=_secret(upstream.proxy_auth, base),
                headers=[
                    msgspec.structs.replace(header, secret=_secret(header.secret, base))
                    for header in upstream.headers
                ],
                managed=upstream.managed
                and msgspec.structs.replace(
                    upstream.managed, model=(base / upstream.managed.model).resolve()
                ),
            )
            for upstream in config.upstreams
        ],
        judges=[_located_judge(judge, base) for judge in config.judges],
        learner=[
            msgspec.structs.replace(entry, base_model=(base / entry.base_model).resolve())
            for entry in config.learner
        ],
    )


def _located_judge(judge: JudgeConfig, base: Path) -> JudgeConfig:
    if judge.rubric is not None:
        return msgspec.structs.replace(judge, rubric=(base / judge.rubric).resolve())
    if judge.builtin:
        options = {
            name: str((base / value).resolve()) if is_file_option(name) and isinstance(value, str) else value
            for name, value in judge.options.items()
        }
        return msgspec.structs.replace(judge, options=options)
    if judge.path is None:
        return judge
    return msgspec.structs.replace(judge, path=f"{(base / judge.file).resolve()}:{judge.function}")


def _located(presidio: Presidio, base: Path) -> Presidio:
    """*presidio* with an absolute path where its model is a folder."""
    folder = (base / presidio.model).resolve()
    return msgspec.structs.replace(presidio, model=str(folder)) if folder.is_dir() else presidio


def _secret(secret: Any, base: Path) -> Any:
    if secret is None or secret.file is None:
        return secret
    return msgspec.structs.replace(secret, file=(base / secret.file).resolve())


def _where(error: yaml.MarkedYAMLError) -> str:
    """Place and problem. PyYAML's own message quotes the line, and a secret may stand in it."""
    mark = error.problem_mark or error.context_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    return place + " ".join(", ".join(part for part in (error.context, error.problem) if part).split())


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _with_remedy(message: str, kind: Any) -> str:
    place = message.rpartition("at `")[2].rstrip("`")
    unknown = _UNKNOWN_FIELD.match(message)
    if unknown is not None:
        known = known_fields(kind, unknown[2] or "$")
        near = get_close_matches(unknown[1], known, n=NEAR_FIELDS, cutoff=0.5) or known
        return f"{message}; known: {', '.join(near)}" if near else message
    if place.endswith(_SECRET_FIELDS) and "got `str`" in message:
        return f"a literal secret is refused; write {{env: NAME}} or {{file: PATH}} - at `{place}`"
    if "Expected `str`, got `bool`" in message:
        reads = "YAML reads off and no as false, on and yes as true"
        return f"{reads}; quote it, or write another word - at `{place}`"
    return message

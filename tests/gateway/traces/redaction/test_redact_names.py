"""Names are found by a real Presidio where it is installed; without it, or its model, one line says so."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from gateway.config.load import parse_config
from gateway.config.privacy import Presidio
from gateway.errors import ConfigError, OperationError
from gateway.traces.redaction.redact import BUILTIN, Redactor
from gateway.traces.redaction.scan import Span

needs_presidio = pytest.mark.skipif(
    find_spec("presidio_analyzer") is None, reason="needs presidio-analyzer: pip install 'tracetune[privacy]'"
)
CONFIG = """
privacy: {redact: presidio}
upstreams: [{name: up, base_url: "http://127.0.0.1:9/v1"}]
routes: [{model: bot, variants: [{name: stable, upstream: up, model: m}]}]
"""


class EveryJane:
    """Names that a test knows beforehand."""

    max_chars = 1_000

    def find(self, texts: Any) -> dict[int, list[Span]]:
        return {
            index: [Span(*match.span(), "PERSON", "jane") for match in re.finditer("Jane", text)]
            for index, text in enumerate(texts)
            if "Jane" in text
        }


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A pipeline of spaCy that knows one person, saved as a model is."""
    import spacy

    pipeline = spacy.blank("en")
    ruler = pipeline.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "PERSON", "pattern": "Jane Doe"}, {"label": "GPE", "pattern": "Berlin"}])
    pipeline.to_disk(tmp_path / "model")
    return str(tmp_path / "model")


def test_names_are_replaced_beside_what_the_rules_find_and_structure_stays() -> None:
    redactor = Redactor(b"k" * 32, BUILTIN, (), EveryJane())
    body = {"role": "user", "content": "Jane is jane@example.com", "more": json.dumps({"who": "Jane"})}
    stored = json.dumps(redactor.value(body, "s"))
    assert "Jane" not in stored
    assert re.search(r"\[PERSON_[0-9a-f]{6}\] is \[EMAIL_[0-9a-f]{6}\]", stored)
    assert json.loads(stored)["role"] == "user"
    assert len(set(re.findall(r"\[PERSON_[0-9a-f]{6}\]", stored))) == 1


def test_what_is_more_than_may_be_looked_at_is_left_out_and_says_what_raises_the_bound() -> None:
    redactor = Redactor(b"k" * 32, BUILTIN, (), EveryJane())
    value = redactor.value(["x" * 900, "y" * 200 + " Jane", "Jane"], "s")
    assert value[0] == "x" * 900
    assert value[1] == "y" * 100 + "[left out, privacy.presidio.max_chars]"
    assert value[2] == "[left out, privacy.presidio.max_chars]"


@pytest.mark.skipif(find_spec("presidio_analyzer") is not None, reason="presidio-analyzer is installed")
def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tracetune\[privacy\].* - at `\$\.privacy\.redact`"):
        parse_config(CONFIG, "tracetune.yaml", tmp_path)


@needs_presidio
def test_a_model_that_is_not_installed_is_one_line_and_is_not_downloaded() -> None:
    from gateway.traces.redaction.names import NameFinder

    with pytest.raises(OperationError, match="'xx_no_such_model' is no folder and not installed") as raised:
        NameFinder(Presidio(model="xx_no_such_model"))
    assert "\n" not in str(raised.value)


@needs_presidio
def test_presidio_finds_what_its_model_knows_and_only_the_entities_asked_for(model: str) -> None:
    from gateway.traces.redaction.names import WINDOW_CHARS, NameFinder

    text = "Jane Doe wrote jane@example.com from Berlin"
    redactor = Redactor(b"k" * 32, BUILTIN, (), NameFinder(Presidio(model=model, entities=["PERSON"])))
    stored = redactor.text(text, "s")
    assert re.fullmatch(r"\[PERSON_[0-9a-f]{6}\] wrote \[EMAIL_[0-9a-f]{6}\] from Berlin", stored)
    both = Redactor(b"k" * 32, BUILTIN, (), NameFinder(Presidio(model=model)))
    assert "Berlin" not in both.text(text, "s")
    far = "word " * (WINDOW_CHARS // 5) + "and Jane Doe"
    assert "Jane" not in both.text(far, "s")

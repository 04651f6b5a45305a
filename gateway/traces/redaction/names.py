"""Names of people and places, found by Presidio with a spaCy model. Slow, and only in the recorder.

It finds what no pattern can and the built-in rules have left. Only recognition by the model is used: the
patterns that Presidio has besides are not linear in the text, and one of them asks the network. Nothing is
ever downloaded.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gateway.config.privacy import Presidio
from gateway.errors import OperationError
from gateway.traces.redaction.scan import Span

WINDOW_CHARS = 50_000  # read at a time, so that the memory of the model does not grow with the text
_PLACEHOLDER = re.compile(r"\[[A-Z][A-Z0-9_]*_[0-9a-f]{6,16}\]")
# A single word of ASCII is a role, an id or a model's name as often as it is somebody's.
_SENTENCE = re.compile(r"\s|[^\x00-\x7f]")


class NameFinder:
    """Finds the entities that *settings* name. Raises OperationError where a package or the model lacks."""

    def __init__(self, settings: Presidio) -> None:
        self.max_chars = settings.max_chars
        self._language = settings.language
        self._entities = list(settings.entities)
        self._analyzer = _analyzer(settings.model, settings.language, tuple(settings.entities))

    def find(self, texts: Sequence[str]) -> dict[int, list[Span]]:
        """What is in *texts*, by their number, in order. Placeholders that are there already stay."""
        found = {}
        for index, text in enumerate(texts):
            if _SENTENCE.search(text) and (spans := self._in(text)):
                found[index] = spans
        return found

    def _in(self, text: str) -> list[Span]:
        taken = [match.span() for match in _PLACEHOLDER.finditer(text)]
        spans: list[Span] = []
        for at in range(0, len(text), WINDOW_CHARS):
            window = text[at : at + WINDOW_CHARS]
            results = self._analyzer.analyze(text=window, language=self._language, entities=self._entities)
            spans += [
                Span(
                    at + one.start,
                    at + one.end,
                    one.entity_type,
                    " ".join(window[one.start : one.end].lower().split()),
                )
                for one in results
            ]
        return _without_overlaps(sorted(spans), taken)


def _without_overlaps(spans: list[Span], taken: list[tuple[int, int]]) -> list[Span]:
    """*spans*, in order, without those that reach into another one before them or into one of *taken*."""
    kept: list[Span] = []
    end = at = 0
    for span in spans:
        while at < len(taken) and taken[at][1] <= span.start:
            at += 1
        free = at == len(taken) or span.end <= taken[at][0]
        if free and span.start >= end:
            kept.append(span)
            end = span.end
    return kept


@lru_cache(maxsize=4)
def _analyzer(model: str, language: str, entities: tuple[str, ...]) -> Any:
    if find_spec("presidio_analyzer") is None:
        raise OperationError(
            "privacy.redact: presidio needs the extra `privacy`: pip install 'tracetune[privacy]'"
        )
    if not Path(model).is_dir() and not (model.isidentifier() and find_spec(model)):
        raise OperationError(
            f"privacy.presidio.model: {model!r} is no folder and not installed; install that spaCy model, "
            "nothing is downloaded while traces are recorded"
        )
    # They log what they look at, at levels that somebody may turn on.
    logging.getLogger("presidio-analyzer").setLevel(logging.CRITICAL)
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import SpacyNlpEngine
    from presidio_analyzer.predefined_recognizers import SpacyRecognizer

    engine = SpacyNlpEngine(models=[{"lang_code": language, "model_name": model}])
    engine.load()
    recognizer = SpacyRecognizer(supported_language=language, supported_entities=list(entities))
    registry = RecognizerRegistry(recognizers=[recognizer], supported_languages=[language])
    return AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=[language])

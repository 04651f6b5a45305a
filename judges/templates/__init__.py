"""Judges to start from, and their tests: one source for `tracetune init` and `tracetune judge new`."""

from __future__ import annotations

import ast
import importlib.resources
import keyword
import re

TEMPLATES = ("extraction", "classification", "support", "sql", "code", "tool_calls", "retrieval", "summary")
FUNCTION = "good"  # the judge in every template
MODULE = "my_judges"  # what the tests import it from
_FUNCTION_WORD = re.compile(rf"\b{FUNCTION}\b")
_MODULE_WORD = re.compile(rf"\b{MODULE}\b")


def judge_text(template: str, name: str = FUNCTION) -> str:
    """The file of the judge *template* (one of TEMPLATES), with *name* for its function.

    Raises ValueError where *name* is no name for a function, or means something in that file.
    """
    text = _text(f"{template}.py")
    if name == FUNCTION:
        return text
    _check(name, text, _text(f"test_{template}.py"))
    return _FUNCTION_WORD.sub(name, text)


def judge_test_text(template: str, name: str = FUNCTION, module: str = MODULE) -> str:
    """The test that goes with it; `pytest` runs it beside the judge, which lies in *module*.py."""
    return _FUNCTION_WORD.sub(name, _MODULE_WORD.sub(module, _text(f"test_{template}.py")))


def _check(name: str, *texts: str) -> None:
    if (
        not (name.isascii() and name.isidentifier())
        or keyword.iskeyword(name)
        or name.startswith(("_", "test"))
    ):
        raise ValueError(f"{name!r} is no name for a judge: letters, digits and _, a letter first, not test…")
    for text in texts:
        if name in _names_in(text):
            raise ValueError(f"{name!r} means something else in that file; take another name")


def _names_in(text: str) -> set[str]:
    """Every name that *text*, Python, uses or gives."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).partition(".")[0])
    return names


def _text(name: str) -> str:
    return (importlib.resources.files(__name__) / name).read_text(encoding="utf-8")

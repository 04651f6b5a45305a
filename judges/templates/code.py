"""Judges code: there is Python that parses. What was merged decides where it is known."""

import ast
import re

BLOCK = re.compile(r"```(?:python|py)?\n(.*?)```", re.DOTALL)
UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)  # what ast.parse raises


def parsed(text):
    block = BLOCK.search(text)
    try:
        tree = ast.parse(block.group(1) if block else text)
    except UNREADABLE:
        return None
    words = all(
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Name | ast.Constant) for node in tree.body
    )
    return None if words else ast.dump(tree)  # "yes" parses too, and does nothing


def good(trace):
    code = parsed(trace.answer)
    if code is None:
        return False
    if trace.kept is None:
        return True  # it parses; report what was merged (POST /api/feedback) and the verdict gets strong
    return code == parsed(trace.kept)

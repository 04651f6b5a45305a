"""Judges code: there is a block of Python, and it is Python. What was merged decides where it is known."""

import ast
import re

BLOCK = re.compile(r"```(?:python|py)?\n(.*?)```", re.DOTALL)


def good(trace):
    block = BLOCK.search(trace.answer)
    code = block.group(1) if block else trace.answer
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError):
        return False
    if not tree.body:
        return False
    if trace.kept is None:
        return True  # it parses; report what was merged (POST /api/feedback) and the verdict gets strong
    return ast.dump(tree) == ast.dump(ast.parse(trace.kept))

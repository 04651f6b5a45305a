"""Reads a judge's file and makes its function. Only the worker process calls `load_function`.

The file is read once, so that the version stored with a judgment is the version that gave it. The version is
that of the file itself; what the file imports beside it is not part of it.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
import types
from pathlib import Path
from typing import Any

import msgspec

from gateway.config.judges import Credit
from judges.errors import JudgeFileError
from judges.protocol import PARAMETERS, Judge, one_line, wanted_parameters

MAX_JUDGE_BYTES = 1_000_000
VERSION_CHARS = 12


class JudgeSource(msgspec.Struct, frozen=True, kw_only=True):
    """A judge's file as it was read, the function in it, and the arguments that it is given by name.

    `beside` is what a judge that comes with us imports of our own, which is part of it.
    `credit`: of a judge of sessions, how a score is given to the turns, which is part of the verdict on each.
    """

    file: str
    function: str
    source: bytes
    options: dict[str, Any] = {}
    beside: bytes = b""
    credit: Credit | None = None

    @property
    def version(self) -> str:
        """Twelve hex digits of the SHA-256 of the file's bytes, of options and of credit."""
        digest = hashlib.sha256(self.source)
        if self.beside:
            digest.update(b"\0" + self.function.encode() + b"\0" + self.beside)
        for part in (self.options, self.credit):
            if part:
                digest.update(b"\0" + msgspec.json.encode(part, order="deterministic"))
        return digest.hexdigest()[:VERSION_CHARS]


def read_source(file: Path, function: str, options: dict[str, Any] | None = None) -> JudgeSource:
    """Read *file* without running it; *function* is the judge in it. Raises JudgeFileError."""
    try:
        if file.stat().st_size > MAX_JUDGE_BYTES:
            raise JudgeFileError(f"{file}: larger than {MAX_JUDGE_BYTES} bytes, not a judge's file")
        source = file.read_bytes()
    except FileNotFoundError as error:
        raise JudgeFileError(f"{file}: no such file; write the judge there or correct its path") from error
    except OSError as error:
        raise JudgeFileError(f"{file}: cannot be read: {error.strerror}") from error
    return JudgeSource(file=str(file), function=function, source=source, options=options or {})


def functions_in(file: Path) -> list[str]:
    """Names of the judges in *file*: public top-level functions that take a judge's parameters.

    Raises JudgeFileError when the file cannot be read, is not Python, or has none.
    """
    tree = _parse(read_source(file, ""))
    names = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and not node.name.startswith("_")
        and any(argument.arg in PARAMETERS for argument in node.args.args + node.args.kwonlyargs)
    ]
    if not names:
        raise JudgeFileError(f"{file}: no judge in it; write `def name(trace): …`")
    return names


def takes(source: JudgeSource, parameter: str) -> bool:
    """Whether the judge takes *parameter*, as its file says; False where that cannot be read."""
    try:
        tree = _parse(source)
    except JudgeFileError:
        return False
    return any(
        argument.arg == parameter
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == source.function
        for argument in (*node.args.args, *node.args.kwonlyargs)
    )


def load_function(source: JudgeSource) -> tuple[Judge, tuple[str, ...]]:
    """Run the file and return the judge and the parameters it takes.

    Raises JudgeFileError naming the user's line when the file does not import, has no such function, or the
    function cannot be a judge. Runs the user's code: call it in a worker process only.
    """
    tree = _parse(source)
    file = Path(source.file)
    name = file.stem if file.stem not in sys.modules else f"judge_{file.stem}"
    module = types.ModuleType(name)
    module.__file__ = source.file
    sys.modules[name] = module
    sys.path.insert(0, str(file.parent))  # a judge may import what lies beside it
    try:
        exec(compile(tree, source.file, "exec"), module.__dict__)  # noqa: S102 -- running it is the point
    except BaseException as error:  # the user's code may raise anything, SystemExit included
        raise JudgeFileError(
            f"{place(source.file, error)}: does not import: {told(error)}; correct that line"
        ) from error
    judge = module.__dict__.get(source.function)
    if judge is None:
        raise JudgeFileError(f"{file}: no function {source.function!r} in it; correct the judge's path")
    if not callable(judge):
        raise JudgeFileError(f"{file}: {source.function!r} is not a function; write `def name(trace): …`")
    try:
        return _with_options(judge, source.options), wanted_parameters(judge, source.options)
    except (TypeError, ValueError) as error:
        line = getattr(getattr(judge, "__code__", None), "co_firstlineno", 1)
        raise JudgeFileError(
            f"{file}:{line}: judge {source.function!r}: {one_line(str(error))}; "
            f"a judge takes {', '.join(PARAMETERS)}, matched by name"
        ) from error


def _with_options(judge: Judge, options: dict[str, Any]) -> Judge:
    return functools.partial(judge, **options) if options else judge


def place(file: str, error: BaseException) -> str:
    """`FILE:LINE`: the last line of *file* that *error* passed through; without one, the file alone."""
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == file else None
    frame = error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == file:
            line = frame.tb_lineno
        frame = frame.tb_next
    return f"{file}:{line}" if line is not None else file


def told(error: BaseException) -> str:
    """`KeyError: 'order_id'`, on one line."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return one_line(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def _parse(source: JudgeSource) -> ast.Module:
    try:
        return ast.parse(source.source, source.file)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise JudgeFileError(
            f"{place(source.file, error)}: does not import: {told(error)}; correct that line"
        ) from error

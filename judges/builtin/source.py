"""What a built-in judge is made of: the file of its family, what that imports here, and its options.

Options are checked here, once, so that a wrong one is a line before anything is judged. An option `X_file`
is a file whose content is given as X: the version is that of the content, wherever the file lies.
"""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from gateway.config.judges import BUILTIN, FILE_OPTION, is_file_option
from judges.builtin import FAMILIES
from judges.errors import JudgeFileError
from judges.load import JudgeSource
from judges.protocol import PARAMETERS, one_line

MAX_OPTION_FILE_BYTES = 1_000_000
_HERE = Path(__file__).resolve().parent
_PACKAGE = "judges.builtin"


def builtin_source(name: str, options: dict[str, Any]) -> JudgeSource:
    """The built-in judge *name* with *options*.

    Raises JudgeFileError naming the judge there is no such as, the option, or the file of one.
    """
    known = _known(name)
    try:
        function: Callable[..., Any] = getattr(import_module(f"{_PACKAGE}.{known}"), name)
    except ImportError as error:
        raise JudgeFileError(
            f"{BUILTIN}:{name}: {one_line(str(error))}; install what tracetune needs"
        ) from error
    file = _file(known)
    return JudgeSource(
        file=str(file),
        function=name,
        source=file.read_bytes(),
        options=_checked(name, function, options),
        beside=_beside(known),
    )


def builtin_files(name: str, options: dict[str, Any]) -> tuple[Path, ...]:
    """The files that the built-in judge *name* is made of; of an unknown one those of its options alone."""
    own = (_file(FAMILIES[name]),) if name in FAMILIES else ()
    return own + tuple(
        Path(value) for option, value in options.items() if is_file_option(option) and isinstance(value, str)
    )


def _known(name: str) -> str:
    if name in FAMILIES:
        return FAMILIES[name]
    raise JudgeFileError(
        f"{BUILTIN}:{name}: no judge of that name comes with us{_nearest(name, list(FAMILIES))}; "
        f"there are {', '.join(FAMILIES)}"
    )


def _checked(name: str, function: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """*options* with files read, of the types that *function* takes. Raises JudgeFileError."""
    parameters = {
        parameter.name: parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name not in PARAMETERS
    }
    hints = get_type_hints(function, include_extras=True)
    checked: dict[str, Any] = {}
    for given, value in options.items():
        option = given.removesuffix(FILE_OPTION) if given not in parameters else given
        if option not in parameters or (option != given and option in options):
            twice = option in parameters
            raise JudgeFileError(
                f"{BUILTIN}:{name}: options {option!r} and {given!r} are one; give one of them"
                if twice
                else f"{BUILTIN}:{name}: no option {given!r}{_nearest(given, list(parameters))}; "
                f"it takes {', '.join(parameters) or 'none'}"
            )
        hint = hints[option]
        content = value if option == given else _content(name, given, value, as_text=_takes_text(hint))
        try:
            checked[option] = msgspec.convert(content, hint)
        except msgspec.ValidationError as error:
            raise JudgeFileError(f"{BUILTIN}:{name}: option {given!r}: {one_line(str(error))}") from error
    for parameter in parameters.values():
        if parameter.default is parameter.empty and parameter.name not in checked:
            raise JudgeFileError(f"{BUILTIN}:{name}: needs option {parameter.name!r}; add it under options")
    check = getattr(import_module(function.__module__), "check_options", None)
    if check is not None:
        try:
            check(name, checked)
        except ValueError as error:
            raise JudgeFileError(f"{BUILTIN}:{name}: {one_line(str(error))}") from error
    return checked


def _takes_text(hint: Any) -> bool:
    return str in (hint, *getattr(hint, "__args__", ()))


def _content(name: str, option: str, value: Any, *, as_text: bool) -> Any:
    """What is in the file that *option* names: text, or JSON. Raises JudgeFileError."""
    where = f"{BUILTIN}:{name}: option {option!r}: {value}"
    if not isinstance(value, str):
        raise JudgeFileError(f"{where} is not the path of a file")
    file = Path(value)
    try:
        if file.stat().st_size > MAX_OPTION_FILE_BYTES:
            raise JudgeFileError(f"{where}: larger than {MAX_OPTION_FILE_BYTES:,} bytes")
        data = file.read_bytes()
        return data.decode() if as_text else msgspec.json.decode(data)
    except OSError as error:
        raise JudgeFileError(f"{where}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise JudgeFileError(f"{where}: not UTF-8 at byte {error.start}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise JudgeFileError(f"{where}: not JSON: {one_line(str(error))}") from error


def _nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _file(family: str) -> Path:
    return _HERE / f"{family}.py"


@functools.cache
def _beside(family: str) -> bytes:
    """The files of this folder that *family* imports, and what those import, each behind its name."""
    found: set[str] = set()
    waiting = [family]
    while waiting:
        for imported in _imported(waiting.pop()):
            if imported not in found and imported != family:
                found.add(imported)
                waiting.append(imported)
    return b"\0".join(name.encode() + b"\0" + _file(name).read_bytes() for name in sorted(found)) or b"\0"


def _imported(family: str) -> list[str]:
    """Names of the files of this folder that *family* imports, wherever in it."""
    modules: list[str] = []
    for node in ast.walk(ast.parse(_file(family).read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
    names = (module.removeprefix(f"{_PACKAGE}.") for module in modules if module.startswith(f"{_PACKAGE}."))
    return [name for name in names if _file(name).is_file()]

"""Import paths, `module.py:callable` and `package.module:callable`, and the objects they lead to.

What they name is code of the user's own, so it is imported and called; whatever it raises becomes one error
that says so, lest it be taken for an error of normprobe.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

from normprobe.errors import NormprobeError

_IMPORT_PATH = re.compile(r"(?P<module>.+\.py|[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<name>[^\W\d]\w*(\.[^\W\d]\w*)*)")


def is_import_path(text: str) -> bool:
    """Whether ``text`` reads as ``module.py:callable`` or ``package.module:callable``.

    >>> is_import_path("nets.py:build"), is_import_path("my.nets:Net.small"), is_import_path("./nets.py")
    (True, True, False)
    """
    return _IMPORT_PATH.fullmatch(text) is not None


@contextmanager
def call_user_code(what: str, error: type[NormprobeError]) -> Iterator[None]:
    """Turn whatever the user's code raises into one ``error`` that says its type and message.

    Args:
        what: the code as the user knows it, such as ``"nets.py:build"``.
        error: the type to raise.

    Raises:
        NormprobeError: of type ``error``, chained to the original.
    """
    try:
        yield
    except NormprobeError:
        raise
    # A script may call sys.exit on import, which would end the command without a word.
    except (Exception, SystemExit) as cause:
        raise error(f"{what} raised {describe(cause)}") from cause


def describe(cause: BaseException) -> str:
    """An exception's type and message in one line of at most 300 characters."""
    message = " ".join(str(cause).split())
    shown = message if len(message) <= 300 else message[:297] + "..."
    return f"{type(cause).__name__}: {shown}" if shown else type(cause).__name__


def import_object(text: str, error: type[NormprobeError]) -> Any:
    """Import the module of an import path and return the object it names.

    The module's folder (the current one for a dotted name) is put on ``sys.path`` and stays there, as Python
    itself does for a script, because the object may import its neighbours when it is called.

    Args:
        text: ``module.py:callable`` or ``package.module:callable``.
        error: the type to raise.

    Raises:
        NormprobeError: of type ``error``: no such file or module, it raised, or it has no such name.
    """
    match = _IMPORT_PATH.fullmatch(text)
    if match is None:
        raise error(f"{text!r} is not of the form module.py:callable or package.module:callable")
    source, name = match["module"], match["name"]
    module = _file_module(source, error) if source.endswith(".py") else _named_module(source, error)
    try:
        return reduce(getattr, name.split("."), module)
    except AttributeError:
        # Not what it imports: `torch` has callables enough.
        own = [key for key, value in vars(module).items() if callable(value) and _defined_in(value, module)]
        offer = f"; it defines {', '.join(sorted(own)[:8])}" if own else ""
        raise error(f"{source} has no {name!r}{offer}") from None


def _defined_in(value: Callable[..., Any], module: ModuleType) -> bool:
    return getattr(value, "__module__", None) == module.__name__


def _file_module(source: str, error: type[NormprobeError]) -> ModuleType:
    """The module of a file, imported once under a name that no other module has.

    Raises:
        NormprobeError: of type ``error``: there is no such file, or importing it raised.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        raise error(f"{source} is not a file; give module.py:callable with the path of an existing module")
    path = path.resolve()
    # Not the name of the file: a user's `random.py` must not take the place of Python's. The path is hashed
    # into it, so that two files of one name are two modules and one file is imported once.
    name = f"{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    if name in sys.modules:
        return sys.modules[name]
    _put_on_path(path.parent)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise error(f"{source} cannot be imported as a Python module")
    module = importlib.util.module_from_spec(spec)
    # Before it runs, as Python's own import does: what it defines may look its module up.
    sys.modules[name] = module
    try:
        with call_user_code(f"importing {source}", error):
            spec.loader.exec_module(module)
    except BaseException:
        # Half a module must not be what a second attempt finds.
        del sys.modules[name]
        raise
    return module


def _named_module(source: str, error: type[NormprobeError]) -> ModuleType:
    """The module of a dotted name, found in the current folder as well.

    Raises:
        NormprobeError: of type ``error``: importing it raised.
    """
    _put_on_path(Path.cwd())
    with call_user_code(f"importing {source}", error):
        return importlib.import_module(source)


def _put_on_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

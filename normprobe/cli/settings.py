"""Settings in pyproject.toml: options that hold unless the command line says otherwise.

They stand in `[tool.normprobe]`, for every command that has the option, or in a table of one command,
`[tool.normprobe.report]`, which counts before it. Keys are the names of options.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import click

_FILE = "pyproject.toml"
_TABLE = "tool.normprobe"
_OFF = "normprobe.no-config"
_NO_SETTINGS = {"config", "no-config", "help"}
_MAY_BE_PATHS = {"data", "weights", "weights_b"}
_Command = TypeVar("_Command", bound=Callable[..., Any])


def settings(command: _Command) -> _Command:
    """Add the options that say which settings hold."""
    # Eager: settings are defaults, so they have to be there before other options are read.
    config = click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=_apply,
        help=f"Settings from [{_TABLE}] of this file, not of the nearest {_FILE}.",
    )
    without = click.option(
        "--no-config",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_switch_off,
        help="No settings of any file.",
    )
    return config(without(command))


def _switch_off(context: click.Context, option: click.Parameter, off: bool) -> None:
    if off and context.default_map:
        raise click.UsageError("--config and --no-config exclude each other", context)
    context.meta[_OFF] = off


def _apply(context: click.Context, option: click.Parameter, path: Path | None) -> None:
    """Make what a file sets the defaults of the command.

    Raises:
        UsageError: the file cannot be read, or sets what there is not.
    """
    # Shell completion parses without running: it must not fail on a file.
    if context.resilient_parsing:
        return
    if context.meta.get(_OFF):
        if path is not None:
            raise click.UsageError("--config and --no-config exclude each other", context)
        return
    found = nearest() if path is None else path
    if found is None:
        return
    table = _table(found)
    if table is None:
        raise click.UsageError(f"--config {found} has no [{_TABLE}]", context)
    context.default_map = _defaults(context, found, table)


def nearest(start: Path | None = None) -> Path | None:
    """The pyproject.toml with settings that is nearest to a folder, in it or above.

    Args:
        start: the folder; the working directory by default.

    Raises:
        UsageError: one on the way speaks of normprobe and cannot be read.
    """
    here = (start or Path.cwd()).absolute()
    for folder in (here, *here.parents):
        path = folder / _FILE
        if path.is_file() and b"normprobe" in path.read_bytes() and _table(path) is not None:
            return path
    return None


def _table(path: Path) -> dict[str, Any] | None:
    """The settings of a file; None if it has none.

    Raises:
        UsageError: it cannot be read, or is no TOML.
    """
    try:
        tool = tomllib.loads(path.read_text("utf-8")).get("tool", {})
    except OSError as cause:
        raise click.UsageError(f"{path} cannot be read: {cause.strerror}") from cause
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as cause:
        raise click.UsageError(f"{path} is no TOML: {cause}; mend it, or say --no-config") from cause
    table = tool.get("normprobe")
    return table if isinstance(table, dict) else None


def _defaults(context: click.Context, path: Path, table: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults that a table gives the running command.

    Raises:
        UsageError: a key is no option, or a value none of its values.
    """
    group = context.find_root().command
    commands = group.commands if isinstance(group, click.Group) else {str(context.info_name): context.command}
    options = {name: _options(command) for name, command in commands.items()}
    every = {key: option for known in options.values() for key, option in known.items()}
    # `layers` is a command and an option: a table is of the command, anything else of the option.
    tables = {key: value for key, value in table.items() if isinstance(value, dict)}
    own = {key: value for key, value in table.items() if key not in tables}
    for name, entries in tables.items():
        _check_key(path, _TABLE, name, commands)
        _refuse_arguments(path, f"{_TABLE}.{name}", entries, [commands[name]])
        for key in entries:
            _check_key(path, f"{_TABLE}.{name}", key, options[name])
    _refuse_arguments(path, _TABLE, own, commands.values())
    for key in own:
        _check_key(path, _TABLE, key, every)
    running = str(context.command.name)
    mine = options.get(running, {})
    given = {_plain(key): value for key, value in own.items() if _plain(key) in mine}
    given |= {_plain(key): value for key, value in tables.get(running, {}).items()}
    return {str(mine[key].name): _value(context, path, key, mine[key], value) for key, value in given.items()}


def _options(command: click.Command) -> dict[str, click.Option]:
    """The options of a command that may be set, by the name that stands behind their two dashes."""
    return {
        name.removeprefix("--"): option
        for option in command.params
        if isinstance(option, click.Option)
        for name in option.opts
        if name.startswith("--") and name.removeprefix("--") not in _NO_SETTINGS
    }


def _plain(key: str) -> str:
    return key.replace("_", "-")


def _check_key(path: Path, table: str, key: str, known: Mapping[str, Any]) -> None:
    """Refuse a key that is none of those known.

    Raises:
        UsageError: it is not; close names are said.
    """
    if _plain(key) in known:
        return
    close = get_close_matches(_plain(key), known, n=3) or sorted(known)
    raise click.UsageError(f"{path}: [{table}] has no setting {key!r}; did you mean {', '.join(close)}?")


def _refuse_arguments(path: Path, table: str, keys: Iterable[str], commands: Iterable[click.Command]) -> None:
    """Refuse keys that name what a command is given without an option.

    Raises:
        UsageError: one of them does.
    """
    arguments = {
        str(param.name)
        for command in commands
        for param in command.params
        if isinstance(param, click.Argument)
    }
    for key in keys:
        if key in arguments:
            raise click.UsageError(
                f"{path}: [{table}] cannot set {key!r}: {key.upper()} stands on the command line"
            )


def _value(context: click.Context, path: Path, key: str, option: click.Option, value: Any) -> Any:
    """A setting as the default of an option.

    Raises:
        UsageError: the option takes no such value.
    """
    if option.is_flag != isinstance(value, bool):
        wanted = "true or false" if option.is_flag else f"no value of {option.opts[-1]}"
        raise click.UsageError(f"{path}: {key} = {value!r}: {'' if option.is_flag else 'this is '}{wanted}")
    values = value if isinstance(value, list) else [value]
    # As text, which is what the command line would give.
    texts = [text if isinstance(text, bool) else _located(path, option, str(text)) for text in values]
    # A list for an option that takes one value is left as it is, for click to refuse.
    default = tuple(texts) if option.multiple else texts[0] if not isinstance(value, list) else texts
    try:
        option.type_cast_value(context, default)
    except click.BadParameter as cause:
        raise click.UsageError(f"{path}: {key} = {value!r}: {cause.message}") from cause
    return default


def _located(path: Path, option: click.Option, value: str) -> str:
    """A path of a settings file as seen from the working directory: it is meant from the file's folder."""
    folder = path.absolute().parent
    named = folder / value.partition(":")[0]
    is_path = isinstance(option.type, click.Path) or (option.name in _MAY_BE_PATHS and named.exists())
    if not is_path or folder == Path.cwd():
        return value
    return os.path.relpath(folder / value)

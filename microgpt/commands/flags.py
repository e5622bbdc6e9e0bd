"""Arguments of commands: a parser with one-line errors, and flags from the table of settings."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from microgpt import engine
from microgpt import settings as table
from microgpt.commands.ending import complain, failed
from microgpt.message import one_line, quoted, suggestion
from microgpt.settings import FIELDS


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors and suggestions; a failure to print is an error too."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings
        )

    def error(self, message: str) -> NoReturn:
        complain(f"{one_line(message)} (see {self.prog} --help)", self.prog)
        raise SystemExit(2)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        choices = action.choices
        if choices is not None and value not in choices:
            words = f"invalid choice: {quoted(value)} (choose from {', '.join(choices)})"
            known = [*choices, "--help", "--version"] if action.dest == "command" else choices
            raise argparse.ArgumentError(action, words + suggestion(str(value), known))

    def _print_message(self, message: str, file: Any = None) -> None:
        stream = file or sys.stdout
        try:
            if stream is not None:
                stream.write(message)
                stream.flush()
        except OSError as error:
            raise SystemExit(failed(error)) from None


def add_settings(
    parser: argparse.ArgumentParser,
    names: Iterable[str],
    convert: Callable[[Any], Callable[[str], Any]] | None = None,
    **defaults: Any,
) -> None:
    """Add the flags of some settings, in the groups of the table; what is not given is left out.

    convert(field) returns the function that reads a flag's text; defaults are those in which
    this command differs from the table.
    """
    groups: dict[str, Any] = {}
    for name in names:
        field = FIELDS[name]
        title = field.metadata["group"]
        group = groups.get(title) or groups.setdefault(title, parser.add_argument_group(title))
        default = defaults.get(name, field.default)
        text = field.metadata["text"].format(engines=", ".join(engine.names()), engine=engine.NAME)
        if name in defaults:
            text = text.partition(" (default:")[0]
        flag = f"--{name.replace('_', '-')}"
        if table.kind(field) is bool:
            group.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=text)
            continue
        if default not in (None, "") and "(default:" not in text:
            text = f"{text} (default: {default})"
        choices = field.metadata.get("choices") or (engine.names() if name == "engine" else None)
        metavar = {int: "N", float: "X"}.get(table.kind(field), "NAME")
        group.add_argument(
            flag,
            type=(convert or _converter)(field),
            choices=None if convert else choices,
            default=argparse.SUPPRESS,
            metavar=field.metadata.get("metavar", metavar),
            help=text.replace("%", "%%"),
        )


def given(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that a command line gives."""
    return {name: value for name, value in vars(options).items() if name in FIELDS}


def settings(command: Parser, values: dict[str, Any]) -> table.Settings:
    """Return settings of values; a wrong value ends the command as a wrong flag does."""
    try:
        return table.Settings(**values)
    except (TypeError, ValueError) as error:
        command.error(str(error))


def path(text: str) -> str:
    """Return the text of a path that is an argument.

    Raises:  argparse.ArgumentTypeError if it is empty
    """
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def whole(text: str) -> int:
    """Return the number of an argument that is at least 1.

    Raises:  argparse.ArgumentTypeError if it is none
    """
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, a whole number, not {quoted(text)}")
    return number


def _converter(field: Any) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            return table.parsed(field, text)
        except (TypeError, ValueError) as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert

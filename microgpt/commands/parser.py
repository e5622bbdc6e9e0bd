"""The parser of the whole command line, with suggestions for mistyped arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import microgpt
from microgpt import engine
from microgpt.commands.flags import Parser
from microgpt.message import quoted, suggestion


def run(argv: Sequence[str]) -> int:
    """Run a command line; return its exit status."""
    parser = build()
    if not argv:
        parser.print_help()
        return 0
    if list(argv[:2]) == ["sweep", "show"]:
        argv = ["sweep show", *argv[2:]]
    options, unknown = parser.parse_known_args(_spelled(argv))
    command: Parser = options.parser
    if unknown:
        command.error(f"unrecognized arguments: {' '.join(unknown)}{_hint(command, unknown[0])}")
    status: int = options.run(options)
    return status


def build() -> Parser:
    """Return the parser of all commands."""
    from microgpt.commands import (
        evaluate,
        export,
        gradcheck,
        log,
        look,
        plot,
        report,
        sample,
        scale,
        score,
        sweep,
        sweep_show,
        train,
        verify,
    )

    parser = Parser(
        prog="microgpt",
        description="Train and sample Karpathy's microgpt, compiled, with not one bit changed.",
        epilog="Start with: microgpt train\nThen: microgpt COMMAND --help",
    )
    parser.add_argument(
        *("-V", "--version"),
        action="version",
        version=f"microgpt {microgpt.__version__}, {engine.NAME} engine",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    modules: dict[str, Any] = {
        "train": train,
        "sample": sample,
        "eval": evaluate,
        "score": score,
        "log": log,
        "verify": verify,
        "sweep": sweep,
        "sweep show": sweep_show,
        "scale": scale,
        "gradcheck": gradcheck,
        "look": look,
        "plot": plot,
        "report": report,
        "export": export,
    }
    for name, module in modules.items():
        text = module.SUMMARY
        made = commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=module.EXAMPLES
        )
        module.add_arguments(made)
        made.set_defaults(run=module.run, parser=made)
    commands.add_parser("run", help="run a microgpt script of your own, unchanged, compiled")
    return parser


def _spelled(argv: Sequence[str]) -> list[str]:
    """Return argv with the flags' underscores as hyphens: --n_embd is --n-embd."""
    spelled: list[str] = []
    for i, argument in enumerate(argv):
        if argument == "--":
            return spelled + list(argv[i:])
        flag, equals, value = argument.partition("=")
        if flag.startswith("--"):
            argument = flag.replace("_", "-") + equals + value
        spelled.append(argument)
    return spelled


def _hint(parser: Parser, word: str) -> str:
    """Return a suggestion for an argument that a command does not know."""
    flags = [flag for action in parser._actions for flag in action.option_strings]
    if word.startswith("-"):
        return suggestion(word.partition("=")[0], flags)
    if verb := suggestion(word, parser.get_default("verbs") or ()):
        return verb
    if "--data" in flags:
        return f"; did you mean --data {quoted(word)[1:-1]}?"
    return "; did you mean --prompt?" if "--prompt" in flags else ""

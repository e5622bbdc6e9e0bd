"""The command line: what each command takes, and what its errors look like.

A wrong command line is exit status 2, any other failure 1, each with one line
that says what to do; Ctrl-C is 130. Flags are the original's names, with hyphens
or underscores.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TextIO

import microgpt
from microgpt import engine
from microgpt.commands.export import EXAMPLES as EXPORT
from microgpt.commands.export import add_arguments as export_arguments
from microgpt.commands.look import EXAMPLES as LOOK
from microgpt.commands.look import add_arguments as look_arguments
from microgpt.gpt import MAX_THREADS

TRAIN = """\
examples:
  microgpt train                                the 30,000 names of the package
  microgpt train --data original                the names that the original trains on, fetched once
  microgpt train --data words.txt --out words   your text, one document a line; keep the model
  zcat words.gz | microgpt train --data -       from a pipe
  microgpt train --data https://example.org/words.txt#sha256=... --n-embd 32 --n-layer 2

An address is fetched once and kept in the cache directory; the checksum is optional.
The same seed, data and flags give the same numbers to the last bit, on every engine.
Ctrl-C ends training after the step that runs, and saves if --out is given.
"""
SAMPLE = """\
examples:
  microgpt train --out names          makes the directory names with a model in it
  microgpt sample names               20 new names
  microgpt sample names --prompt mar --temperature 0.8 --top-k 5
  microgpt sample names --quiet --num-samples 1000 | sort -u
"""
VERIFY = """\
examples:
  microgpt verify                                  the default model on the package's names
  microgpt verify --data words.txt --n-layer 2 --num-steps 3 --batch-size 4
  microgpt verify --engine cython                  only this engine beside the oracle

The oracle is the plain Python that defines what is right; it is slow, so the default is
few steps. Exit status 0 says that losses, gradients, weights and samples were equal to
the last bit, 1 that something differed.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["run"]:  # the streams, arguments and errors from here on are the script's
        from microgpt import run

        return run.main(given[1:])
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a sample may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)
    try:
        status = _run(_spelled(given))
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except SystemExit as error:  # argparse's way out, after help or a wrong flag
        return error.code if isinstance(error.code, int) else 1
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except BrokenPipeError:  # the reader has left, as `head` does
        _abandon(sys.stdout)
        return 141
    except MemoryError as error:
        _complain(
            f"{error or 'out of memory'}: lower --n-embd, --n-layer, --block-size or "
            "--batch-size, or take --engine fused"
        )
    except OSError as error:
        _abandon(sys.stdout)
        _complain(_describe(error))
    except (ArithmeticError, ImportError, ValueError) as error:
        _complain(str(error))
    return 1


def _run(argv: list[str]) -> int:
    parser = _parser()
    if not argv:
        parser.print_help()
        return 0
    arguments, unknown = parser.parse_known_args(argv)
    command: argparse.ArgumentParser = arguments.parser
    if unknown:
        command.error(f"unrecognized arguments: {' '.join(unknown)}")
    trains = arguments.command in ("train", "verify")
    if trains:
        from microgpt import training
        from microgpt.adam import Adam

        try:
            training.shape(arguments, vocab_size=1)
            Adam([], **training.settings(arguments))
        except ValueError as error:
            command.error(str(error))
    if trains and _same_file(arguments.losses, arguments.data):
        command.error("--losses would overwrite --data: name another file")
    chosen = None
    if arguments.engine is not None or arguments.command != "verify":
        name = arguments.engine or engine.NAME
        try:
            chosen = engine.load(name)
        except ModuleNotFoundError as error:
            raise ImportError(
                f"engine {name} is not built ({error}): install microgpt again with a C "
                "compiler, or use --engine python"
            ) from None
    status: int = arguments.run(arguments, chosen)
    return status


def _train(arguments: argparse.Namespace, chosen: Any) -> int:
    from microgpt import training

    return training.train(arguments, chosen)


def _sample(arguments: argparse.Namespace, chosen: Any) -> int:
    from microgpt import sampling

    return sampling.sample(arguments, chosen)


def _look(arguments: argparse.Namespace, chosen: Any) -> int:
    from microgpt.commands import look

    return look.run(arguments, chosen)


def _export(arguments: argparse.Namespace, chosen: Any) -> int:
    from microgpt.commands import export

    return export.run(arguments, chosen)


def _verify(arguments: argparse.Namespace, chosen: Any) -> int:
    from microgpt import verify

    return verify.verify(arguments, chosen)


class Parser(argparse.ArgumentParser):
    """argparse with both spellings of a flag's default shown and one-line errors."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings
        )

    def error(self, message: str) -> NoReturn:
        text = message.replace("\n", "\\n")
        self.exit(2, f"{self.prog}: {text} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="microgpt",
        description="Train and sample Karpathy's microgpt, compiled, with not one bit changed.",
        epilog="Start with: microgpt train\nThen: microgpt COMMAND --help",
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"microgpt {microgpt.__version__}, {engine.NAME} engine",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, run: Callable[..., int], text: str, epilog: str) -> Parser:
        made: Parser = commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=epilog
        )
        made.set_defaults(run=run, parser=made, prompt="", top_k=None)
        return made

    train = command("train", _train, "train a model on text and sample from it", TRAIN)
    _add_training(train, num_steps=1000)
    _add_sampling(train)
    _add_files(train, "save the model in DIR, for microgpt sample")
    _add_quiet(train)

    sample = command("sample", _sample, "sample from a model that train --out saved", SAMPLE)
    sample.add_argument(
        "model", type=_name, metavar="DIR", help="the directory that train --out made"
    )
    _add_engine(sample)
    _add_sampling(sample)
    sample.add_argument("--prompt", default="", metavar="TEXT", help="what each sample starts with")
    sample.add_argument(
        "--top-k", type=_whole(1), metavar="N", help="draw from the N likeliest characters only"
    )
    _add_seed(sample)
    _add_quiet(sample)

    verify = command("verify", _verify, "check on this machine that all engines agree", VERIFY)
    _add_training(verify, num_steps=10)
    _add_sampling(verify)
    _add_files(verify, "save the model in DIR if all engines agree")
    verify.add_argument("--quiet", action="store_true", help="say nothing if all engines agree")

    look = command("look", _look, "look inside a saved model at one text", LOOK)
    look_arguments(look)
    _add_engine(look)

    export = command("export", _export, "write a saved model for torch, onnx or numpy", EXPORT)
    export_arguments(export)
    _add_engine(export)

    commands.add_parser("run", help="run a microgpt script of your own, unchanged, compiled")
    return parser


def _add_training(parser: argparse.ArgumentParser, num_steps: int) -> None:
    run = parser.add_argument_group("run")
    run.add_argument(
        "--data",
        type=_name,
        metavar="SOURCE",
        help="a path, - for standard input, an http(s) address: UTF-8 text, one document a line; "
        "or the word original: the original's names.txt (default: the package's names)",
    )
    _add_engine(run)
    _add_seed(run)
    _add(run, "--num-steps", _whole(1), num_steps, "how many times the weights are updated")
    _add(run, "--batch-size", _whole(1), 1, "documents a step")
    _add(run, "--threads", _whole(1, MAX_THREADS), 1, "of the fused engine; the bits stay the same")
    model = parser.add_argument_group("model")
    _add(model, "--n-embd", _whole(1), 16, "width of the model, a multiple of --n-head")
    _add(model, "--n-head", _whole(1), 4, "attention heads a layer")
    _add(model, "--n-layer", _whole(1), 1, "layers")
    _add(model, "--block-size", _whole(1), 16, "the most characters that it sees or makes")
    adam = parser.add_argument_group("optimizer (Adam)")
    _add(adam, "--learning-rate", _real, 0.01, "at the first step; falls linearly to zero")
    _add(adam, "--beta1", _real, 0.85, "decay of the gradients' mean")
    _add(adam, "--beta2", _real, 0.99, "decay of their squares' mean")
    _add(adam, "--eps-adam", _real, 1e-8, "added to the root of the squares' mean")


def _add_files(parser: argparse.ArgumentParser, out: str) -> None:
    files = parser.add_argument_group("output")
    files.add_argument("--out", type=_name, metavar="DIR", help=out)
    files.add_argument(
        "--losses",
        type=_name,
        metavar="FILE",
        help="write each step's loss to FILE, as float.hex() a line",
    )


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    sampling = parser.add_argument_group("sampling")
    _add(sampling, "--num-samples", _whole(0), 20, "how many samples")
    _add(sampling, "--temperature", _temperature, 0.5, "below 1 cautious, above 1 wild")


def _add_engine(parser: Any) -> None:
    parser.add_argument(
        "--engine",
        choices=engine.names(),
        metavar="NAME",
        help=f"one of {', '.join(engine.names())}: the same bits, another speed "
        f"(default: {engine.NAME})",
    )


def _add_seed(parser: Any) -> None:
    _add(parser, "--seed", _whole(None), 42, "start of the random stream")


def _add_quiet(parser: Any) -> None:
    parser.add_argument("--quiet", action="store_true", help="print the bare samples alone")


def _add(parser: Any, flag: str, kind: Callable[[str], Any], default: Any, text: str) -> None:
    metavar = "X" if isinstance(default, float) else "N"
    parser.add_argument(
        flag, type=kind, default=default, metavar=metavar, help=f"{text} (default: {default})"
    )


def _whole(least: int | None, most: int | None = None) -> Callable[[str], int]:
    def whole(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None
        if least is not None and number < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, not {number}")
        if most is not None and number > most:
            raise argparse.ArgumentTypeError(f"must be at most {most}, not {number}")
        return number

    return whole


def _name(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def _real(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from None


def _temperature(text: str) -> float:
    number = _real(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, not {text}")
    return number


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


def _same_file(a: str | None, b: str | None) -> bool:
    try:
        return a is not None and b is not None and os.path.samefile(a, b)
    except OSError:  # one of them is not there
        return False


def _describe(error: OSError) -> str:
    if error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return error.strerror or str(error)


def _complain(message: str) -> None:
    print(f"microgpt: {message}".replace("\n", "\\n"), file=sys.stderr)


def _abandon(stream: TextIO | None) -> None:
    """Let what is still in the buffer go, so that the interpreter's exit is silent."""
    try:
        if stream is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError):
        pass

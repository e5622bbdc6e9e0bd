"""The settings of a training run: one table, which checks itself.

The command line, a TOML file, a checkpoint and a sweep all make a `Settings`; the table
below has each flag's name, default, range and help. `scope` says what a setting
decides: "bits" of the result (a resumed run must have the same), the "samples" that are
drawn, or only the "process": how fast, and what is shown and written where.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from microgpt.adam import SCHEDULES, Adam
from microgpt.data import SPLITS
from microgpt.message import one_line, quoted, suggestion
from microgpt.model import MAX_THREADS, Sizes
from microgpt.models import MODELS


class SettingsError(ValueError):
    """Settings that contradict each other, their text or their run."""


def _setting(default: Any, text: str, group: str, **rules: Any) -> Any:
    """Return a field of `Settings`.

    rules: kind, the type where the default is None; least, above, below, most, its range;
    choices; metavar; scope, "process" unless it is another.
    """
    return dataclasses.field(default=default, metadata={"text": text, "group": group, **rules})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a training run does; the defaults are the original's.

    Raises:  TypeError or ValueError, of one line that names the setting, if a value is
             of another type, out of its range, or does not go with another
    """

    # text
    data: str | None = _setting(
        None,
        "a path, - for standard input, an http(s) address: UTF-8 text; or the word original: the "
        "original's names.txt (default: the package's names)",
        "text",
        kind=str,
        metavar="SOURCE",
        scope="bits",
    )
    split: str = _setting(
        "lines",
        "the documents of the text: lines; paragraphs, with blank lines between; or windows of "
        "--block-size characters over the whole text",
        "text",
        choices=SPLITS,
        metavar="WAY",
        scope="bits",
    )
    val: float | str | None = _setting(
        None,
        "hold out this share of the documents (0.1), or those of a file, to measure the loss on "
        "text that was not trained on",
        "text",
        kind=object,
        metavar="SHARE|FILE",
        scope="bits",
    )
    # run
    engine: str | None = _setting(
        None, "one of {engines}: the same bits, another speed (default: {engine})", "run", kind=str
    )
    seed: int = _setting(42, "start of the random stream", "run", scope="bits")
    num_steps: int = _setting(
        1000, "how many times the weights are updated", "run", least=1, scope="bits"
    )
    batch_size: int = _setting(1, "documents a step", "run", least=1, scope="bits")
    threads: int = _setting(
        1, "threads of the fused engine; the bits stay the same", "run", least=1, most=MAX_THREADS
    )
    # model
    model: str = _setting(
        "gpt",
        f"one of {', '.join(MODELS)}: makemore's models beside the GPT",
        "model",
        choices=tuple(MODELS),
        metavar="NAME",
        scope="bits",
    )
    n_embd: int = _setting(
        16, "width of the model, of a gpt a multiple of --n-head", "model", least=1, scope="bits"
    )
    n_hidden: int = _setting(
        64, "width of the hidden layer of an mlp, rnn, gru or bow", "model", least=1, scope="bits"
    )
    n_head: int = _setting(4, "attention heads a layer", "model", least=1, scope="bits")
    n_layer: int = _setting(1, "layers", "model", least=1, scope="bits")
    block_size: int = _setting(
        16, "the most characters that the model sees at once", "model", least=1, scope="bits"
    )
    dropout: float = _setting(
        0.0,
        "share of the activations that a training step sets to zero",
        "model",
        least=0,
        below=1,
        scope="bits",
    )
    init_std: float = _setting(
        0.08, "standard deviation of the first weights", "model", least=0, scope="bits"
    )
    # optimizer
    learning_rate: float = _setting(
        0.01, "the largest rate of the schedule", "optimizer (Adam)", least=0, scope="bits"
    )
    schedule: str = _setting(
        "linear",
        "how the rate falls to --min-lr after the warmup: linear, cosine, or constant, not at all",
        "optimizer (Adam)",
        choices=SCHEDULES,
        metavar="HOW",
        scope="bits",
    )
    warmup: int = _setting(
        0,
        "steps in which the rate rises to --learning-rate",
        "optimizer (Adam)",
        least=0,
        scope="bits",
    )
    min_lr: float = _setting(
        0.0, "the rate at the end of the schedule", "optimizer (Adam)", least=0, scope="bits"
    )
    beta1: float = _setting(
        0.85, "decay of the gradients' mean", "optimizer (Adam)", least=0, below=1, scope="bits"
    )
    beta2: float = _setting(
        0.99, "decay of their squares' mean", "optimizer (Adam)", least=0, below=1, scope="bits"
    )
    eps_adam: float = _setting(
        1e-8, "added to the root of the squares' mean", "optimizer (Adam)", least=0, scope="bits"
    )
    weight_decay: float = _setting(
        0.0,
        "share of the rate by which weights shrink in a step, as in AdamW",
        "optimizer (Adam)",
        least=0,
        scope="bits",
    )
    clip: float | None = _setting(
        None,
        "scale the gradient down to this norm if it is larger",
        "optimizer (Adam)",
        kind=float,
        above=0,
        scope="bits",
    )
    # evaluation
    eval_every: int | None = _setting(
        None,
        "measure the held-out loss every N steps (default: ten times a run)",
        "evaluation, with --val",
        kind=int,
        least=1,
    )
    patience: int | None = _setting(
        None,
        "end training after N evaluations in a row without a lower held-out loss",
        "evaluation, with --val",
        kind=int,
        least=1,
    )
    keep: str | None = _setting(
        None,
        "the weights to use: best, those of the lowest held-out loss, or last "
        "(default: best with --val)",
        "evaluation, with --val",
        kind=str,
        choices=("best", "last"),
    )
    # output
    out: str | None = _setting(
        None, "save the run in DIR, for the other commands", "output", kind=str, metavar="DIR"
    )
    overwrite: bool = _setting(False, "let --out replace the run that is there", "output")
    save_every: int | None = _setting(
        None,
        "save the run every N steps too (default: ten times a run)",
        "output",
        kind=int,
        least=1,
    )
    losses: str | None = _setting(
        None,
        "write each step's loss to FILE, one float.hex() a line",
        "output",
        kind=str,
        metavar="FILE",
    )
    log_every: int | None = _setting(
        None,
        "print the loss every N steps (default: a bar on a terminal, elsewhere after the steps "
        "1, 2, ... 10, 20, ... 100, 200 and so on, and the last)",
        "output",
        kind=int,
        least=1,
    )
    sample_every: int | None = _setting(
        None, "print samples every N steps too", "output", kind=int, least=1
    )
    tensorboard: bool = _setting(
        False, "write TensorBoard's event files into --out too (needs tensorboardX)", "output"
    )
    quiet: bool = _setting(False, "print only the samples, without numbers", "output")
    # sampling
    num_samples: int = _setting(20, "how many samples", "sampling", least=0, scope="samples")
    temperature: float = _setting(
        0.5,
        "below 1 likely characters get likelier, above 1 less likely; 0 takes the likeliest",
        "sampling",
        least=0,
        scope="samples",
    )
    top_k: int | None = _setting(
        None,
        "draw from the N likeliest characters only",
        "sampling",
        kind=int,
        least=1,
        scope="samples",
    )
    top_p: float | None = _setting(
        None,
        "draw from the likeliest characters whose probabilities make up this share",
        "sampling",
        kind=float,
        above=0,
        most=1,
        scope="samples",
    )
    length: int | None = _setting(
        None,
        "the most characters of a sample, its prompt included, also beyond --block-size "
        "(default: --block-size)",
        "sampling",
        kind=int,
        least=1,
        scope="samples",
    )
    stop: str = _setting(
        "", "end a sample where this text was made", "sampling", metavar="TEXT", scope="samples"
    )
    prompt: str = _setting(
        "", "the text that each sample starts with", "sampling", metavar="TEXT", scope="samples"
    )

    def __post_init__(self) -> None:
        for name, field in FIELDS.items():
            try:
                value = checked(field, getattr(self, name))
            except (TypeError, ValueError) as error:
                raise type(error)(f"{name} {error}") from None
            object.__setattr__(self, name, value)
        self.config(vocab_size=1)
        Adam([], **self.adam())
        if self.tensorboard and self.out is None:
            raise ValueError("tensorboard needs a directory: give out")
        for name in ("eval_every", "patience"):
            if self.val is None and getattr(self, name) is not None:
                raise ValueError(f"{name} needs a held-out set: give val")
        if self.keep == "best" and self.val is None:
            raise ValueError("keep best needs a held-out set: give val")

    def config(self, vocab_size: int) -> Sizes:
        """Return the model's configuration.

        Raises:  ValueError if a size was set that the model does not have
        """
        config = MODELS[self.model].Config
        own = {field.name for field in dataclasses.fields(config)}
        for name in ("n_embd", "n_hidden", "n_head", "n_layer"):
            if name not in own and getattr(self, name) != FIELDS[name].default:
                raise ValueError(f"model {self.model} has no {name}")
        if self.dropout and self.model != "gpt":
            raise ValueError(f"model {self.model} has no dropout")
        sizes = {name: getattr(self, name) for name in own - {"vocab_size"}}
        found: Sizes = config(vocab_size=vocab_size, **sizes)
        return found

    def adam(self) -> dict[str, Any]:
        """Return the optimizer's arguments."""
        names = (
            *("learning_rate", "beta1", "beta2", "eps_adam", "num_steps"),
            *("schedule", "warmup", "min_lr", "weight_decay", "clip"),
        )
        return {name: getattr(self, name) for name in names}

    @property
    def keeps_best(self) -> bool:
        """Whether the weights of the lowest held-out loss are kept beside the last."""
        return self.val is not None and self.keep != "last"

    def every(self, name: str) -> int:
        """Return the steps between saves, evaluations or log lines: ten a run by default."""
        given: int | None = getattr(self, name)
        return given if given is not None else -(-self.num_steps // 10)

    def made(self) -> dict[str, float]:
        """Return the model's arguments beside its configuration."""
        dropout = {"dropout": self.dropout} if self.model == "gpt" else {}
        return {"init_std": self.init_std, **dropout}

    def replaced(self, **changes: Any) -> Settings:
        """Return these settings with some changed."""
        return dataclasses.replace(self, **changes)

    def of_scope(self, *scopes: str) -> dict[str, Any]:
        """Return the settings of some scopes, by name."""
        return {name: getattr(self, name) for name, f in FIELDS.items() if scope(f) in scopes}

    def to_toml(self) -> str:
        """Return the settings as TOML; those that are None as comments."""
        lines: list[str] = []
        group = ""
        for name, field in FIELDS.items():
            if field.metadata["group"] != group:
                group = field.metadata["group"]
                lines += [""] * bool(lines) + [f"# {group}"]
            value = getattr(self, name)
            lines.append(f"# {name} =" if value is None else f"{name} = {_toml(value)}")
        return "\n".join(lines) + "\n"


FIELDS: dict[str, dataclasses.Field[Any]] = {f.name: f for f in dataclasses.fields(Settings)}


def kind(field: dataclasses.Field[Any]) -> type:
    """Return the type of a setting's values."""
    found: type = field.metadata.get("kind", type(field.default))
    return found


def scope(field: dataclasses.Field[Any]) -> str:
    """Return what a setting decides: bits, samples or process."""
    found: str = field.metadata.get("scope", "process")
    return found


def checked(field: dataclasses.Field[Any], value: Any) -> Any:
    """Return a value of a setting, an int as a float where it is to be one.

    Raises:  TypeError if it is of another type; ValueError if it is out of its range;
             both say how it must be, without the setting's name
    """
    rules: Mapping[str, Any] = field.metadata
    wanted: Any = kind(field)
    if value is None and field.default is None:
        return None
    if wanted is object:  # a share or a file
        rules, wanted = SHARE if isinstance(value, (int, float)) else {}, type(value)
        wanted = object if wanted is bool else wanted
        wanted = float if wanted is int else wanted
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = _float(value)
    if wanted not in _NOUNS or type(value) is not wanted:
        raise TypeError(f"must be {_NOUNS.get(wanted, 'a share or a file')}, not {quoted(value)}")
    if wanted is str:
        if not value and field.default != "":
            raise ValueError("must not be empty")
        choices = rules.get("choices", ())
        if choices and value not in choices:
            close = suggestion(value, choices)
            raise ValueError(f"must be one of {', '.join(choices)}, not {quoted(value)}{close}")
    elif wanted in (int, float):
        _check_range(value, rules)
    return value


def parsed(field: dataclasses.Field[Any], text: str) -> Any:
    """Return the value of a setting that a text on the command line spells.

    Raises:  ValueError as `checked`
    """
    wanted = kind(field)
    value: Any = text
    if wanted is object:
        with contextlib.suppress(ValueError):
            value = float(text)
    elif wanted in (int, float):
        try:
            value = wanted(text)
        except ValueError:
            raise ValueError(f"must be {_NOUNS[wanted]}, not {quoted(text)}") from None
    return checked(field, value)


def from_mapping(values: Any, name: str) -> dict[str, Any]:
    """Return the settings that a mapping holds, checked one by one; name is its source's.

    Raises:  SettingsError that names the source and the setting
    """
    if not isinstance(values, Mapping):
        raise SettingsError(f"{name}: {quoted(values)} is not a table")
    found = {}
    for key, value in values.items():
        spelled = str(key).replace("-", "_")
        if spelled not in FIELDS:
            raise SettingsError(f"{name}: no setting {quoted(key)}{suggestion(spelled, FIELDS)}")
        try:
            found[spelled] = checked(FIELDS[spelled], value)
        except (TypeError, ValueError) as error:
            raise SettingsError(f"{name}: {spelled} {error}") from None
    return found


def from_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the settings that a TOML file holds.

    Raises:  OSError if it cannot be read; SettingsError that names the file and what is wrong
    """
    return from_mapping(read_toml(path), os.fsdecode(path))


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the table that a TOML file holds.

    Raises:  OSError if it cannot be read; SettingsError that names the file
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    with open(path, "rb") as file:
        try:
            return tomllib.load(file)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{os.fsdecode(path)}: no TOML: {one_line(error)}") from None


SHARE = {"above": 0, "below": 1}
_NOUNS = {
    bool: "true or false",
    float: "a number",
    int: "a whole number",
    str: "text",
}


def _float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _check_range(value: float, rules: Mapping[str, Any]) -> None:
    least, most, above, below = (rules.get(name) for name in ("least", "most", "above", "below"))
    if isinstance(value, float):
        fits = math.isfinite(value)
        fits = fits and (least is None or value >= least) and (above is None or value > above)
        fits = fits and (most is None or value <= most)
        if fits and (below is None or value < below):
            return
        if below is not None and above is not None:
            range_ = f"above {above} and below {below}"
        elif most is not None:
            range_ = f"above {above} and at most {most}"
        elif above == 0:
            range_ = "a positive number"
        elif below is not None:
            range_ = f"at least {least} and below {below}"
        else:
            range_ = f"a finite number of at least {least}"
        raise ValueError(f"must be {range_}, not {value}")
    if least is not None and value < least:
        raise ValueError(f"must be at least {least}, not {quoted(value)}")
    if most is not None and value > most:
        raise ValueError(f"must be at most {most}, not {quoted(value)}")


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value).replace("\x7f", "\\u007f")
    return repr(value)

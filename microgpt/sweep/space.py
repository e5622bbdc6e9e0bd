"""The space of a sweep: which settings vary, and over what; the others are fixed.

    16,32,64              these values
    0:0.3                 every number from 0 to 0.3; of a whole number each
    0:0.3:0.1             in steps of 0.1
    log:1e-3:3e-2         uniform in the logarithm

In a TOML file a value is a number, one of these texts, or an array of values.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, dataclass
from decimal import Decimal
from typing import Any

from microgpt import settings as table
from microgpt.message import quoted, suggestion
from microgpt.settings import FIELDS, Settings

# Settings of how one training is shown and where it is kept: a trial has its own.
OWN = {"out", "overwrite", "losses", "log_every", "sample_every", "tensorboard", "quiet"}
SETTINGS = tuple(name for name in FIELDS if name not in OWN)
VAL = 0.1  # held out where --val does not say
MAX_GRID = 1_000_000
MAX_VALUES = 10_000  # of one range in a grid


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included; step None is every one."""

    low: Any
    high: Any
    log: bool = False
    step: Any = None

    def values(self) -> list[Any] | None:
        """Return all numbers, or None if they cannot be listed."""
        step = self.step or (1 if isinstance(self.low, int) and not self.log else None)
        if step is None:
            return None
        first, by = Decimal(str(self.low)), Decimal(str(step))  # so that 3 * 0.1 is 0.3
        count = int((Decimal(str(self.high)) - first) / by) + 1
        return [type(self.low)(first + i * by) for i in range(min(count, MAX_VALUES + 1))]

    def __str__(self) -> str:
        step = "" if self.step is None else f":{self.step!r}"
        return f"{'log:' if self.log else ''}{self.low!r}:{self.high!r}{step}"


Domain = Range | tuple[Any, ...]


@dataclass(frozen=True)
class Space:
    """What varies, by the setting's name, and the settings that are fixed.

    Raises:  ValueError, of one line, if nothing varies, or there is no engine of a name
    """

    domains: dict[str, Domain]
    fixed: dict[str, Any]

    def __post_init__(self) -> None:
        if not self.domains:
            raise ValueError(
                "nothing varies: give a setting values, as --n-embd 16,32, or a range, as "
                "--learning-rate log:1e-3:3e-2"
            )
        from microgpt import engine

        chosen = self.domains.get("engine", (self.fixed.get("engine"),))
        for name in {*chosen} - {None, *engine.names()}:  # type: ignore[misc] # of any type
            engine.load(name)  # raises the reason

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Space:
        """Return the space of values, which `parsed` or `checked` made."""
        varies = {n: v for n, v in values.items() if isinstance(v, (Range, tuple))}
        fixed = {n: v for n, v in values.items() if n not in varies}
        if "val" not in values:
            fixed["val"] = VAL
        return cls(varies, fixed)

    def settings(self, params: Mapping[str, Any]) -> Settings:
        """Return the settings of a trial.

        Raises:  TypeError or ValueError if they do not go together
        """
        return Settings(**{**self.fixed, **params})

    def problem(self, params: Mapping[str, Any]) -> str | None:
        """Return why no trial can have these parameters, or None."""
        try:
            self.settings(params)
        except (TypeError, ValueError) as error:
            return str(error)
        return None

    def grid(self) -> list[dict[str, Any]]:
        """Return every point that a trial can have.

        Raises:  ValueError if a range has no list of values, if there are too many, or none
        """
        lists: list[Sequence[Any]] = []
        for name, domain in self.domains.items():
            values: Sequence[Any] | None = domain.values() if isinstance(domain, Range) else domain
            if values is None:
                raise ValueError(
                    f"a grid needs values of {name}: list them, or give {domain} a step, as "
                    "0:0.3:0.1"
                )
            if len(values) > MAX_VALUES:
                raise ValueError(f"a grid of more than {MAX_VALUES:,} values of {name}: give fewer")
            lists.append(values)
        count = 1
        for one in lists:
            count *= len(one)
        if count > MAX_GRID:
            raise ValueError(f"a grid of {count:,} points or more: give fewer values")
        points = [dict(zip(self.domains, point)) for point in itertools.product(*lists)]
        kept = [point for point in points if self.problem(point) is None]
        if not kept:
            raise ValueError(f"a space without a trial: {self.problem(points[0])}")
        return kept

    def as_json(self) -> dict[str, Any]:
        """Return all settings as a TOML file would have them."""
        shown = {n: str(d) if isinstance(d, Range) else list(d) for n, d in self.domains.items()}
        return {**self.fixed, **shown}


def parsed(field: Field[Any], text: str) -> Any:
    """Return the value or the domain of a setting from a text on the command line.

    Raises:  ValueError, of one line without the setting's name
    """
    return _domain(field, text) if _is_number(field) else _choices(field, text.split(","))


def checked(field: Field[Any], value: Any) -> Any:
    """Return the value or the domain of a setting from a value in a file.

    Raises:  TypeError or ValueError, of one line without the setting's name
    """
    if isinstance(value, list):
        if not value:
            raise ValueError("must not be an empty array")
        return _unique(tuple(table.checked(field, one) for one in value))
    if isinstance(value, str) and _is_number(field):
        return _domain(field, value)
    return table.checked(field, value)


def from_mapping(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the settings of a file's table; name is the file's.

    Raises:  ValueError that names the file and the setting
    """
    found = {}
    for key, value in values.items():
        spelled = str(key).replace("-", "_")
        if spelled not in SETTINGS:
            what = "a sweep has no" if spelled in OWN else "no setting"
            raise ValueError(f"{name}: {what} {quoted(key)}{suggestion(spelled, SETTINGS)}")
        try:
            found[spelled] = checked(FIELDS[spelled], value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: {spelled} {error}") from None
    return found


def _is_number(field: Field[Any]) -> bool:
    return table.kind(field) in (int, float)


def _domain(field: Field[Any], text: str) -> Any:
    if "," in text:
        return _choices(field, text.split(","))
    if ":" not in text:
        return table.parsed(field, text)
    scale, _, rest = text.partition(":")
    log = scale == "log"
    parts = (rest if log else text).split(":")
    if len(parts) not in (2, 3) or (log and len(parts) == 3) or not all(parts):
        raise ValueError(
            f"must be as 16,32,64, 0:0.3, 0:0.3:0.1 or log:1e-3:3e-2, not {quoted(text)}"
        )
    low, high = (table.parsed(field, part) for part in parts[:2])
    if not low < high:
        raise ValueError(f"must not be an empty range: {low} is not below {high}")
    if log and low <= 0:
        raise ValueError(f"must be above 0 for a logarithm, not {low}")
    step = None
    if len(parts) == 3:
        try:
            step = table.kind(field)(parts[2])
        except ValueError:
            raise ValueError(f"must have a number as step, not {quoted(parts[2])}") from None
        if not 0 < step <= high - low:
            raise ValueError(f"must have a step above 0 and within {low}:{high}, not {step}")
    return Range(low, high, log, step)


def _choices(field: Field[Any], texts: Sequence[str]) -> Any:
    values = tuple(_read(field, texts))
    return values[0] if len(values) == 1 else _unique(values)


def _read(field: Field[Any], texts: Sequence[str]) -> Iterator[Any]:
    for text in texts:
        yield table.parsed(field, text)


def _unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    for i, value in enumerate(values):
        if value in values[:i]:
            raise ValueError(f"must not have {quoted(value)} twice")
    return values

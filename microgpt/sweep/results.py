"""Read a sweep's directory, for tables, pages and pandas; Optuna is imported for plots only."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from microgpt import extras
from microgpt.message import quoted
from microgpt.sweep import space
from microgpt.sweep.space import Space
from microgpt.sweep.trial import DEFINITION, TRIALS, Result, read_result

STATES = ("complete", "pruned", "failed")
DEFINED: dict[str, Any] = {  # the types of a definition's values
    "id": str,
    "trials": int,
    "sampler": str,
    "pruner": str,
    "round": int,
    "storage": (str, type(None)),
    "settings": dict,
}
COLUMNS = ("val_loss", "train_loss", "seconds")


def short(value: Any) -> str:
    """Return a value of a setting for a table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class Results:
    """A sweep's definition and the trials that have ended, by number.

    Raises:  OSError or ValueError, of one line, if the directory holds no sweep
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        path = self.directory / DEFINITION
        try:
            self.definition: dict[str, Any] = json.loads(path.read_bytes())
            for name, kinds in DEFINED.items():
                if not isinstance(self.definition[name], kinds):
                    raise ValueError(f"its {name} is {quoted(self.definition[name])}")
            self.sweep: str = self.definition["id"]
            values = space.from_mapping(self.definition["settings"], str(path))
            self.space = Space.of(values)
        except FileNotFoundError as error:
            text = "there is no sweep in it; expected is a directory that microgpt sweep made"
            raise FileNotFoundError(error.errno, text, str(directory)) from None
        except (KeyError, RecursionError, TypeError, ValueError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"{path}: no sweep: {reason}") from None
        self.trials: dict[int, Result] = {}
        for folder in (self.directory / TRIALS).glob("[0-9]*"):
            result = read_result(folder, self.sweep)
            if result is not None and folder.name == f"{result.number:04d}" and self._is(result):
                self.trials[result.number] = result

    def _is(self, result: Result) -> bool:
        """Return whether a result is valid and of this sweep: its file may hold anything."""
        losses = (result.val_loss, result.train_loss) if result.state == "complete" else ()
        return (
            result.state in STATES
            and isinstance(result.params, dict)
            and result.params.keys() == self.space.domains.keys()
            and self.space.problem(result.params) is None
            and all(isinstance(loss, float) and math.isfinite(loss) for loss in losses)
            and all(isinstance(n, (int, float)) for n in (result.seconds, result.steps))
        )

    def path(self, number: int) -> Path:
        """Return the directory of a trial's run."""
        return self.directory / TRIALS / f"{number:04d}"

    def best(self) -> list[Result]:
        """Return the complete trials, the lowest held-out loss first."""
        done = [r for r in self.trials.values() if r.state == "complete"]
        return sorted(done, key=lambda r: (r.val_loss, r.number))

    def rows(self) -> list[dict[str, Any]]:
        """Return a row a trial: number, state, what varied, losses, seconds, directory."""
        return [
            {
                "trial": number,
                "state": result.state,
                **{name: result.params.get(name) for name in self.space.domains},
                **{name: getattr(result, name) for name in COLUMNS},
                "directory": str(self.path(number)),
            }
            for number, result in sorted(self.trials.items())
        ]

    def frame(self) -> Any:
        """Return the rows as a pandas frame, indexed by trial.

        Raises:  ImportError without pandas
        """
        pandas = extras.need("pandas", "a frame", "sweep")
        columns = ["trial", "state", *self.space.domains, *COLUMNS, "directory"]
        return pandas.DataFrame(self.rows(), columns=columns).set_index("trial")

    def study(self, most: int | None = None) -> Any:
        """Return the trials, the first ones up to a number, as a study of Optuna in memory.

        Raises:  ImportError without Optuna
        """
        from microgpt.sweep import study

        return study.in_memory([r for _, r in sorted(self.trials.items())[:most]], self.space)

    def importance(self) -> dict[str, float]:
        """Return how much of the loss's variation follows from each setting, of 1 in all.

        By PED-ANOVA (arXiv:2304.10255), Optuna's; empty before two trials differ.
        """
        losses = {result.val_loss for result in self.best()}
        if len(self.space.domains) == 1 or len(losses) < 2:
            return dict.fromkeys(self.space.domains, 1.0) if len(losses) > 1 else {}
        importance = extras.need("optuna.importance", "an importance", "sweep")
        evaluator = importance.PedAnovaImportanceEvaluator()
        found = importance.get_param_importances(self.study(), evaluator=evaluator)
        return {name: float(share) for name, share in found.items()}

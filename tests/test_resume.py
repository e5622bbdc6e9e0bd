"""A run that is interrupted and resumed has the bits of one that is not: files and all."""

import json
import random
import shutil

import pytest

from microgpt.settings import Settings
from microgpt.training import Callbacks, Stop, Training

NAMES = "emma olivia ava isabella sophia mia amelia harper evelyn abigail emily ella".split()


class Interrupts(Callbacks):
    """Stop after some steps, copy the run's directory after one; keep what was evaluated."""

    def __init__(self, stops=(), copy_after=None, directory=None, to=None):
        self.stops = set(stops)
        self.copy_after, self.directory, self.to = copy_after, directory, to
        self.evaluations = []

    def step(self, t, loss):
        if t + 1 == self.copy_after:
            shutil.copytree(self.directory, self.to)
        if t + 1 in self.stops:
            self.stops.remove(t + 1)
            raise Stop

    def evaluated(self, step, loss, best):
        self.evaluations.append((step, loss.hex(), best))


def content(directory):
    """Return what a run's directory holds, but for times."""
    lines = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"], line["tokens_per_second"]
    best = directory / "best.safetensors"
    return (
        (directory / "model.safetensors").read_bytes(),
        best.read_bytes() if best.exists() else None,
        lines,
    )


def settings(rng, path):
    """Return random settings of a small run."""
    path.write_text("\n".join(NAMES))
    found = {
        "data": str(path),
        "n_embd": 8,
        "n_head": 2,
        "block_size": rng.choice([4, 8]),
        "num_steps": rng.randint(1, 30),
        "batch_size": rng.choice([1, 2]),
        "seed": rng.randrange(100),
        "split": rng.choice(["lines", "lines", "windows"]),
        "save_every": rng.choice([None, 1, 4, 9]),
        "sample_every": rng.choice([None, 3]),
    }
    if rng.random() < 0.8:
        found |= {"val": rng.choice([0.1, 0.4]), "eval_every": rng.choice([None, 1, 2, 4, 5])}
        if rng.random() < 0.5:
            found |= {"patience": rng.randint(1, 3), "learning_rate": rng.choice([0.01, 0.5])}
    return found


@pytest.mark.parametrize("seed", range(16))
def test_run_stopped_anywhere_and_resumed_is_the_same(compiled_scalar, seed, tmp_path):
    rng = random.Random(seed)
    chosen = settings(rng, tmp_path / "names.txt")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = Interrupts()
    Training(Settings(out=str(whole), **chosen)).fit(expected)
    found = Interrupts({rng.randint(1, chosen["num_steps"]) for _ in range(4)})
    run = Training(Settings(out=str(parts), **chosen))
    run.fit(found)
    while not run.is_finished:
        name = compiled_scalar.NAME if rng.random() < 0.5 else None
        run = Training.load(parts, {"engine": name, "threads": rng.choice([1, 2])})
        run.fit(found)
    assert content(parts) == content(whole)
    assert found.evaluations == expected.evaluations


@pytest.mark.parametrize("seed", range(6))
def test_run_killed_anywhere_and_extended_is_the_same(seed, tmp_path):
    """What a killed process leaves is a directory as it is in the midst of a step."""
    rng = random.Random(seed)
    chosen = settings(rng, tmp_path / "names.txt")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    watch = Interrupts((), rng.randint(1, chosen["num_steps"]), whole, killed)
    Training(Settings(out=str(whole), **chosen)).fit(watch)
    if not killed.exists():  # out of patience before
        shutil.copytree(whole, killed)
    for directory in (whole, killed):
        for num_steps in (chosen["num_steps"], chosen["num_steps"] + rng.choice([7, 7])):
            Training.load(directory, {"num_steps": num_steps}).fit()
    assert content(killed) == content(whole)


def test_stop_at_a_step_that_is_evaluated_evaluates_it(tmp_path):
    watch = Interrupts([4])
    chosen = settings(random.Random(0), tmp_path / "names.txt")
    chosen |= {"num_steps": 6, "val": 0.4, "eval_every": 4, "patience": None}
    run = Training(Settings(out=str(tmp_path / "run"), **chosen))
    run.fit(watch)
    assert (run.step, [step for step, _, _ in watch.evaluations]) == (4, [4])

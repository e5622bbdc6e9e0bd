"""The course: each program gives the same bits in Python, under `run` and as a notebook."""

import json
import os
import random
import re
import runpy
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from bits import bits
from command import environment
from nbclient import NotebookClient

from microgpt import CharTokenizer

EXAMPLES = Path(__file__).parent.parent / "examples"
STEPS = {f"train{i}": n for i, n in enumerate(["300", "20", "20", "2", "2", "2"])}
LOSSES = {  # after the first and the last of these steps
    "train0": ("3.295836866004", "2.413002482314"),
    "train1": ("3.314662624685", "3.304962174757"),
    "train2": ("3.314662624685", "3.304962174757"),
    "train3": ("3.238323155288", "3.199835867149"),
    "train4": ("3.238180753701", "3.199645099740"),
    "train5": ("3.238180753701", "3.225415198913"),
}
LAST = "\nprint(*[float(p.data).hex() for p in params], loss.data.hex())\n"
PLAIN = "\nprint(float(loss).hex())\n"


def output(name, tmp_path, *command):
    """Return what a program prints, its numbers in full at the end."""
    source = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    (tmp_path / f"{name}.py").write_text(
        source + (LAST if "params" in source else PLAIN), encoding="utf-8"
    )
    (tmp_path / "names.txt").write_bytes((EXAMPLES / "names.txt").read_bytes())
    done = subprocess.run(
        [sys.executable, *command, f"{name}.py"],
        cwd=tmp_path, env=environment(NUM_STEPS=STEPS[name]), capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", STEPS)
def test_a_program_gives_the_same_bits_plain_and_compiled(tmp_path, name):
    plain = output(name, tmp_path)
    losses = re.findall(r"loss (\d+\.\d+)", plain)
    assert (losses[0], losses[-1]) == LOSSES[name]
    assert output(name, tmp_path, "-m", "microgpt", "run") == plain


@pytest.mark.parametrize("name", STEPS)
def test_a_notebook_is_its_program_and_prints_the_same(monkeypatch, name):
    path = EXAMPLES / f"{name}.ipynb"
    found = json.loads(path.read_text(encoding="utf-8"))
    made = runpy.run_path(str(EXAMPLES / "notebooks.py"))["notebook"]
    assert found == made((EXAMPLES / f"{name}.py").read_text(encoding="utf-8"))
    monkeypatch.setenv("NUM_STEPS", STEPS[name])
    book = nbformat.reads(path.read_text(encoding="utf-8"), 4)
    NotebookClient(book, timeout=300, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    shown = "".join(
        out["text"] for cell in book["cells"] for out in cell.get("outputs", ()) if "text" in out
    )
    done = subprocess.run(
        [sys.executable, f"{name}.py"],
        cwd=EXAMPLES, env={**os.environ, "NUM_STEPS": STEPS[name]}, capture_output=True, text=True,
    )  # fmt: skip
    assert shown == done.stdout


def test_the_gradient_by_hand_is_autograds(tmp_path):
    (by_hand, by_value) = (
        re.findall(r"loss (\d+\.\d{9})", output(n, tmp_path)) for n in ("train1", "train2")
    )
    assert by_hand == by_value


def test_the_last_program_is_microgpt(tmp_path, model_engine):
    last = output("train5", tmp_path, "-m", "microgpt", "run").splitlines()[-1]
    *weights, loss = last.split()
    docs = (EXAMPLES / "names.txt").read_text(encoding="utf-8").split()
    rng = random.Random(42)
    rng.shuffle(docs)
    tokenizer = CharTokenizer.from_documents(docs)
    model = model_engine.GPT(tokenizer.vocab_size, rng=rng)
    losses = model.fit([tokenizer.encode_document(doc) for doc in docs], 2)
    assert bits(losses[-1]) == [loss]
    assert bits(*model.weights()) == weights

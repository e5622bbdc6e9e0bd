"""Exports: each is loaded again by its own runtime, in a process without microgpt.

torch and onnxruntime are large: their tests are marked heavy.
"""

import json
import random
import subprocess
import sys

import numpy
import pytest
from command import run

from microgpt import CharTokenizer, checkpoint
from microgpt.commands.export import FORMS, compare
from microgpt.engine import load

CHARACTERS = "\0\n a<中é𝒳"
SHAPES = [(1, 1, 1, 1), (8, 4, 1, 8), (6, 2, 3, 5)]
EXACT = ["json", "numpy"]
LARGE = [pytest.param(form, marks=pytest.mark.heavy) for form in ("torch", "onnx")]


def saved(path, shape=(6, 2, 3, 5), scale=1.0):
    """Save a model with larger weights than a new one's; return it."""
    tokenizer = CharTokenizer(CHARACTERS)
    model = load("python").GPT(tokenizer.vocab_size, *shape, rng=random.Random(5))
    for p in model.params:
        p.data *= 5.0 * scale
    checkpoint.save(path, model, tokenizer)
    return checkpoint.load(path)[0]


@pytest.mark.parametrize("form", EXACT + LARGE)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_export_says_how_near_its_logits_are(tmp_path, form, shape):
    saved(tmp_path / "m.safetensors", shape)
    status, out, err = run("export", "m.safetensors", "--to", form, "--out", "out", cwd=tmp_path)
    assert (status, err) == (0, "")
    assert out.startswith("out: model.")
    if form in EXACT:
        assert out.endswith("; loaded again: logits equal to the last bit\n")
    else:
        assert "; loaded again: logits equal to" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.safetensors", "out"]


@pytest.mark.parametrize("form", ["numpy", pytest.param("torch", marks=pytest.mark.heavy)])
def test_an_exported_program_needs_no_microgpt(tmp_path, form):
    model = saved(tmp_path / "m.safetensors")
    assert run("export", "m.safetensors", "--to", form, "--out", "o", cwd=tmp_path)[0] == 0
    program = (
        "import sys, runpy; sys.modules['microgpt'] = None; sys.argv[1:] = ['a <']\n"
        "runpy.run_path('o/model.py', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    expected = [
        f"{p:.4f} {repr(model.tokenizer.chars[i]) if i < len(CHARACTERS) else 'the end'}"
        for i, p in model.look([len(CHARACTERS), *model.tokenizer.encode("a <"), 0]).top(3)
    ]
    assert done.stdout.splitlines() == expected


def test_json_has_every_weight_to_the_last_bit(tmp_path):
    model = saved(tmp_path / "m.safetensors")
    assert run("export", "m.safetensors", "--to", "json", "--out", "o", cwd=tmp_path)[0] == 0
    whole = json.loads((tmp_path / "o" / "model.json").read_text())
    assert whole["config"] == vars(model.config)
    assert whole["vocabulary"] == sorted(CHARACTERS)
    flat = [w for matrix in whole["weights"].values() for row in matrix for w in row]
    assert numpy.array(flat).tobytes() == model.weights().tobytes()


@pytest.mark.parametrize("form", EXACT + LARGE)
@pytest.mark.parametrize("index", [0, -1])
def test_a_comparison_notices_one_weight_in_its_last_bits(tmp_path, form, index):
    model = saved(tmp_path / "m.safetensors")
    write, read = FORMS[form]
    write(model, model.tokenizer, tmp_path)
    logits = read(tmp_path)
    difference, largest = compare(model, logits)
    assert difference <= (0.0 if form in EXACT else 1e-13 * largest)
    model.params[index].data *= 1 + 1e-9
    assert compare(model, logits)[0] > 1e-11 * largest


def test_an_export_that_differs_is_not_kept(tmp_path, monkeypatch, capsys):
    saved(tmp_path / "m.safetensors")
    write, read = FORMS["json"]

    def wrong(model, tokenizer, out):
        model.params[7].data += 0.5
        write(model, tokenizer, out)
        model.params[7].data -= 0.5

    monkeypatch.setitem(FORMS, "json", (wrong, read))
    monkeypatch.chdir(tmp_path)
    from microgpt.commands import main

    assert main(["export", "m.safetensors", "--to", "json", "--out", "o"]) == 1
    assert "the export to json differs: logits by up to " in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_nothing_is_overwritten(tmp_path):
    saved(tmp_path / "m.safetensors")
    (tmp_path / "m.safetensors-json").mkdir()
    status, _, err = run("export", "m.safetensors", "--to", "json", cwd=tmp_path)
    assert (status, err) == (
        1,
        "microgpt: m.safetensors-json: exists already: choose another --out\n",
    )


@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_a_missing_runtime_is_said_with_the_command_that_installs_it(tmp_path, form):
    saved(tmp_path / "m.safetensors")
    (tmp_path / f"{form}.py").write_text(f"raise ModuleNotFoundError(name={form!r})")
    status, _, err = run(
        *("export", "m.safetensors", "--to", form), cwd=tmp_path, PYTHONPATH=str(tmp_path)
    )
    expected = f"export --to {form} needs {form}: pip install 'microgpt-cython[{form}]'"
    assert (status, err) == (1, f"microgpt: {expected}\n")
    left = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}
    assert left == {f"{form}.py", "m.safetensors"}

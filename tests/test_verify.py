"""`microgpt verify` passes equal engines, and names every engine that differs."""

import subprocess
import sys

import pytest
from command import environment, run

from microgpt import verify
from microgpt.gpt import Config

SHAPE = ["--n-embd", "4", "--n-head", "2", "--block-size", "4"]


def test_built_engines_are_identical(compiled, tmp_path):
    status, out, err = run("verify", *SHAPE, "--num-steps", "3", cwd=tmp_path)
    assert (status, err) == (0, "")
    lines = {line.split()[1]: line for line in out.splitlines() if "│" in line}
    assert "the oracle" in lines["python"]
    assert "identical" in lines[compiled.NAME]
    assert "compared to the last bit: 3 losses, 1,272 gradients, 1,272 weights, 20 samples" in out


def test_all_flags_of_training_are_verified(compiled, tmp_path):
    (tmp_path / "text").write_text("日本\nはい\n日は\n")
    status, out, _ = run(
        *("verify", "--engine", compiled.NAME, "--data", "text", "--seed", "7", "--n_embd", "6"),
        *("--n-head", "2", "--n-layer", "2", "--block-size", "2", "--learning-rate", "0.5"),
        *("--beta1", "0.1", "--beta2", "0.2", "--eps-adam", "0.3", "--batch-size", "2"),
        *("--num-steps", "3", "--num-samples", "5", "--temperature", "2"),
        cwd=tmp_path,
    )
    assert (status, out.count("identical")) == (0, 1)


# A program that adds an engine to the command: the oracle's own text, changed,
# and what is done to the classes around it.
PROGRAM = """
import math, pathlib, sys, types
from microgpt import adam, engine, oracle
from microgpt.commands import main

text, old, new, patch = sys.argv[1:5]
source = pathlib.Path(oracle.__file__).read_text()
assert old in source, old
module = types.ModuleType("wrong_oracle")
sys.modules["wrong_oracle"] = module
exec(source.replace(old, new), module.__dict__)
engine._MODULES["wrong"] = "wrong_oracle"
load = engine.load

def patched(name):
    made = load(name)  # the same each time
    if name == "wrong" and not vars(made).setdefault("is_patched", False):
        made.is_patched = True
        exec(patch, {"made": made, "Adam": adam.Adam, "math": math})
    return made

engine.load = patched
sys.exit(main(["verify", "--engine", "wrong", *sys.argv[5:]]))
"""


def verify_wrong(tmp_path, old="", new="", patch="", *flags):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "", old, new, patch, *SHAPE, "--num-steps", "3", *flags],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


WRONG_ADAM = """
class Wrong(Adam):
    def step(self):
        super().step()
        if self.t == 2:
            self.params[17].data = math.nextafter(self.params[17].data, 1)
made.Adam = Wrong
"""
WRONG_FIT = """
fit = made.GPT.fit
made.GPT.fit = lambda self, documents, *rest, **named: fit(self, documents[:2], *rest, **named)
"""
WRONG_LAST_STEP = """
fit = made.GPT.fit
def wrong(self, *arguments, **named):
    losses = fit(self, *arguments, **named)
    self.params[0].data += 1
    return losses
made.GPT.fit = wrong
"""
WRONG_SAMPLES = """
generate = made.GPT.generate
made.GPT.generate = lambda self, *rest, **named: generate(self, *rest, **named)[::-1]
"""


@pytest.mark.parametrize(
    ("old", "new", "patch", "place"),
    [
        ("math.log(self._data), (self", "math.log(self._data) * (1 + 2**-40), (self", "",
         "step 1, loss"),
        ("iter(child._children)", "iter(child._children[::-1])", "", "step 1, gradient of "),
        ("float(y > 0)", "float(y >= -0.1)", "", "step 1, gradient of "),
        ("(b._data, self._data)", "(b._data, self._data * (1 + 2**-50))", "",
         "step 1, gradient of "),
        ("def exp(self)", "def unused(self)", "Value = made.Value; Value.exp = None",
         "step 1, exception"),
        ("y = math.exp(self._data)", "y = 1 / 0", "", "step 1, exception"),
        ("", "", WRONG_ADAM, "step 2, weight of wte[4][1]"),
        ("", "", WRONG_FIT, "by fit, step 3, loss"),
        ("", "", WRONG_LAST_STEP, "by fit, last weight of wte[0][0]"),
        ("", "", WRONG_SAMPLES, "sample 1"),
    ],
)  # fmt: skip
def test_wrong_engine_is_found_with_both_numbers(tmp_path, old, new, patch, place):
    status, out, _ = verify_wrong(tmp_path, old or "class Value", new or "class Value", patch)
    assert (status, "identical" in out) == (1, False)
    assert f"differ: {place}" in out
    lines = [line.split("│")[4].split() for line in out.splitlines() if line.count("│") == 5]
    (ours, theirs) = lines[-2:]
    assert (ours[0], theirs[0]) == ("python", "wrong")
    assert ours[1:] != theirs[1:]


def test_right_engine_beside_it_is_found_identical(tmp_path):
    status, out, err = verify_wrong(tmp_path, "class Value", "class Value", "")
    assert (status, out.count("identical"), err) == (0, 1, "")


def test_exception_that_the_oracle_raises_too_is_no_difference(tmp_path):
    status, out, _ = verify_wrong(
        tmp_path, "class Value", "class Value", "", "--learning-rate", "1e6"
    )
    assert (status, out.count("identical")) == (0, 1)


def test_exception_of_one_engine_alone_is_a_difference(tmp_path):
    status, out, _ = verify_wrong(
        tmp_path, 'return self._result("log"', '1 / 0\n        return self._result("log"', ""
    )
    assert status == 1
    assert "differ: step 1, exception" in out
    assert "wrong  ZeroDivisionError" in out


def test_parameter_names_matrix_row_and_column():
    config = Config(3, n_embd=2, n_head=1, n_layer=1, block_size=4)
    assert verify.parameter(0, config) == "wte[0][0]"
    assert verify.parameter(7, config) == "wpe[0][1]"
    assert verify.parameter(config.num_params - 1, config) == "layer0.mlp_fc2[1][7]"
    with pytest.raises(ValueError, match="no such weight"):
        verify.parameter(config.num_params, config)


def test_nothing_to_compare_is_a_failure(tmp_path):
    status, out, err = run("verify", "--engine", "python", cwd=tmp_path)
    assert (status, out) == (1, "")
    assert err == "microgpt: no engine is built beside the oracle, so there is nothing to compare\n"


def test_verify_takes_the_flags_of_train(tmp_path):
    flags = (*SHAPE, "--num-steps", "3", "--losses", "a", "--out", "model", "--quiet")
    assert run("verify", *flags, cwd=tmp_path) == (0, "", "")
    run("train", *SHAPE, "--num-steps", "3", "--losses", "b", "--engine", "python", cwd=tmp_path)
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()
    status, out, _ = run("sample", "model", "--num-samples", "1", cwd=tmp_path)
    assert (status, out.splitlines()[0][:11]) == (0, "sample  1: ")

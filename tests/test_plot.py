"""`microgpt plot` and the curves behind it: what is logged is what is drawn."""

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree

import pytest
from command import run

from microgpt import curves

TEXT = "ada\ngrace\nalan\nedsger\nbarbara\ndonald\nkathleen\nfrances\n"
SMALL = ["--data", "text", "--n-embd", "4", "--n-head", "2", "--block-size", "8"]
SMALL += ["--num-steps", "60", "--val", "0.25", "--eval-every", "20", "--num-samples", "0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with two runs that differ in their learning rate."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text").write_text(TEXT)
    for name, rate in (("slow", "0.001"), ("fast", "0.02")):
        status, _, err = run("train", *SMALL, "--learning-rate", rate, "--out", name, cwd=folder)
        assert status == 0, err
    shutil.copytree(folder / "slow", folder / "bare")
    bare = [json.dumps({**line, "norm": None}) + "\n" for line in lines(folder, "slow")]
    (folder / "bare" / "log.jsonl").write_text("".join(bare))
    return folder


def lines(folder, name):
    return [json.loads(line) for line in (folder / name / "log.jsonl").read_text().splitlines()]


def plot(folder, *arguments, **options):
    status, out, err = run("plot", *arguments, cwd=folder, **options)
    assert (status, err) == (0, "")
    return out


def test_a_curve_is_what_was_logged(folder):
    logged, found = lines(folder, "slow"), curves.LoggedRun(folder / "slow")
    assert found.curve("loss").y == [line["loss"] for line in logged]
    assert found.curve("loss").x == list(range(1, 61))
    assert found.curve("val_loss").x == [20, 40, 60]
    assert found.curve("rate", "seconds").x == [line["seconds"] for line in logged]
    total = found.curve("loss", "tokens").x
    assert total[-1] == sum(line["tokens"] for line in logged)
    assert total[0] == logged[0]["tokens"] > 1


def test_runs_are_labelled_by_what_differs(folder):
    labels = [found.label for found in curves.runs([folder / "slow", folder / "fast"])]
    assert labels == ["learning_rate=0.001", "learning_rate=0.02"]
    assert [found.label for found in curves.runs([folder / "slow"])] == ["slow"]
    twice = [found.label for found in curves.runs([folder / "slow", folder / "slow"])]
    assert twice == ["slow", "slow"]


def test_a_running_mean_is_the_mean_of_the_last_points():
    curve = curves.Curve([1, 2, 3, 4], [1.0, 3.0, 5.0, 7.0])
    assert curves.running_mean(curve, 2) == ([2, 3, 4], [2.0, 4.0, 6.0])
    assert curves.running_mean(curve) == curve


def test_a_thinned_curve_keeps_its_end():
    curve = curves.Curve(list(range(10_001)), list(range(10_001)))
    thin = curves.thinned(curve, 100)
    assert len(thin.x) <= 100
    assert (thin.x[-1], thin.y[-1]) == (10_000, 10_000)
    assert curves.thinned(curves.Curve([], [])) == ([], [])


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("of", ["loss", "rate", "speed"])
def test_the_terminal_gets_a_plot_of_its_width(folder, of, width):
    out = plot(folder, "slow", "fast", "--of", of, COLUMNS=str(width))
    assert "\x1b" not in out
    drawn, legend = out.split("steps\n")
    assert max(map(len, drawn.splitlines())) < width
    assert len(drawn.splitlines()) > 10
    marks = [line[0] for line in legend.splitlines() if "learning_rate=0." in line]
    assert len(marks) == (4 if of == "loss" else 2)
    assert set(marks) <= set(drawn)


def test_an_ascii_pipe_gets_signs(folder):
    assert plot(folder, "slow", "--x", "tokens", PYTHONIOENCODING="ascii").isascii()


@pytest.mark.parametrize("axis", ["steps", "seconds", "tokens"])
def test_a_picture_names_what_it_shows(folder, axis):
    assert plot(folder, "slow", "fast", "--x", axis, "--svg", "x.svg", "--png", "x.png") == ""
    assert (folder / "x.png").read_bytes()[:4] == b"\x89PNG"
    svg = (folder / "x.svg").read_text()
    ElementTree.fromstring(svg)
    shown = re.findall(r"<!-- (.*?) -->", svg)  # text is drawn as outlines, and named
    for text in (axis, "learning_rate=0.02", "loss (nats per token)", "learning rate"):
        assert text in shown
    logged = any(line.get("norm") is not None for line in lines(folder, "slow"))
    assert ("gradient norm" in shown) is logged


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nowhere"], 1, "nowhere: No such file or directory"),
        (["bare", "--of", "norm"], 1, "no run has logged its norm"),
        (["slow", "--x", "days"], 2, "argument --x: invalid choice: 'days'"),
        ([], 2, "the following arguments are required: DIR"),
    ],
)
def test_what_cannot_be_plotted_is_named(folder, arguments, status, message):
    found, out, err = run("plot", *arguments, cwd=folder)
    assert (found, out) == (status, "")
    assert message in err


def test_a_missing_package_is_said_with_the_command_that_installs_it(folder):
    (folder / "plotext.py").write_text("raise ModuleNotFoundError(name='plotext')")
    status, _, err = run("plot", "slow", cwd=folder, PYTHONPATH=str(folder))
    (folder / "plotext.py").unlink()
    expected = "a plot in the terminal needs plotext: pip install 'microgpt-cython[view]'"
    assert (status, err) == (1, f"microgpt: {expected}\n")

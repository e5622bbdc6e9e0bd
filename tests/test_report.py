"""`microgpt report`: one page that needs no other file, with the run's own figures."""

import hashlib
import json
import re

import pytest
from command import run
from test_look import Balance

from microgpt import checkpoint, curves
from microgpt.report import MAX_BYTES, Report

TEXT = "ada\ngrace\nalan\nedsger\nbarbara\ndonald\nkathleen\nfrances\n</script>\n中文 <b>\n"
SMALL = ["--data", "text", "--n-embd", "8", "--n-head", "2", "--n-layer", "2", "--block-size", "10"]
SMALL += ["--num-steps", "60", "--val", "0.2", "--num-samples", "0"]
SECTIONS = [
    *("settings", "curves", "samples", "a-text", "attention", "embeddings"),
    *("weights-and-gradients", "what-is-hard"),
]
FIGURES = {"loss", "rate", "tokens_per_second", "wte", "wpe", "weights", "gradients", "characters"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with a run and its report."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "text").write_text(TEXT, encoding="utf-8")
    status, _, err = run("train", *SMALL, "--out", "run", cwd=folder)
    assert status == 0, err
    status, out, err = run("report", "run", "--verify", cwd=folder)
    assert (status, err) == (0, "")
    assert re.fullmatch(r"run/report.html: [\d,]+ bytes\n", out)
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "run" / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def shown(page):
    """The page without plotly's own script."""
    before, _, after = page.partition("<script>/**")
    return Balance(before + "<script>" + after.partition("</script>")[2].partition("<script>")[2])


@pytest.fixture(scope="module")
def figures(page):
    return json.loads(re.search(r"const FIGURES = (.*?);\n//", page, re.DOTALL)[1])


def test_the_page_is_small_and_names_no_other_file(page):
    assert len(page.encode()) < MAX_BYTES
    own = page.partition("<script>/**")[0]
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]*\"", own)
    assert "url(" not in own
    assert "@import" not in own


def test_every_section_and_figure_has_its_place(page, figures):
    assert re.findall(r'<section id="([\w-]+)"', page) == SECTIONS
    assert {name.removeprefix("plot-") for name in figures} - {"norm"} == FIGURES
    assert all(f'id="{name}"' in page for name in figures)
    assert page.count("<figure>") == page.count("<image ") == 4  # heads


def test_provenance_is_what_the_files_say(folder, shown):
    content = checkpoint.read(folder / "run", best=False)
    digest = hashlib.sha256(checkpoint.file_in(folder / "run").read_bytes()).hexdigest()
    for fact in (digest, content.run["sha256"], checkpoint.libm(), "identical: 60 losses"):
        assert fact in shown.text
    assert "n-embd8" in shown.text


def test_curves_are_the_logs(folder, figures):
    loss = curves.LoggedRun(folder / "run").curve("loss")
    raw, _, held_out = figures["plot-loss"]["data"]
    assert raw["x"] == loss.x
    assert raw["y"] == pytest.approx(loss.y, rel=1e-5)
    assert held_out["x"][-1] == 60


def test_samples_are_marked_as_the_text_has_them(folder, page):
    items = re.findall(r"<li><code>(.*?)</code> <span class=\"[\w ]+\">([\w ]+)</span>", page)
    assert len(items) == 40
    report = Report(folder / "run")
    for name, tag in items:
        expected = "new"
        for kind, texts in (
            ("train", report.corpus.training),
            ("held out", report.corpus.held_out),
        ):
            if name in texts:
                expected = kind
        if name.isalpha() and name.isascii():
            assert tag == expected
    assert {"new"} <= {tag for _, tag in items}


def test_hard_characters_are_ranked(figures):
    bars = figures["plot-characters"]["data"][0]
    assert bars["y"] == sorted(bars["y"], reverse=True)
    assert len(bars["x"]) == len(bars["y"]) == len(set(bars["x"])) > 2


def test_embeddings_are_shown_character_by_character(figures):
    assert len(figures["plot-wte"]["data"][0]["x"]) == len(set(TEXT) - {"\n"}) + 1
    assert "&lt;" in figures["plot-wte"]["data"][0]["text"]
    assert len(figures["plot-wpe"]["data"][0]["x"]) == 10


def test_a_text_can_be_chosen(folder):
    status, _, err = run("report", "run", "--text", "ada <b>", "--out", "x.html", cwd=folder)
    assert (status, err) == (0, "")
    assert "8 positions" in (folder / "x.html").read_text(encoding="utf-8")


def test_a_text_that_is_gone_is_said(folder, tmp_path):
    (folder / "text").rename(tmp_path / "text")
    status, _, err = run("report", "run", "--out", "y.html", cwd=folder)
    (tmp_path / "text").rename(folder / "text")
    assert (status, err) == (0, "")
    text = (folder / "y.html").read_text(encoding="utf-8")
    assert "its text cannot be read" in text
    assert '<section id="what-is-hard"' not in text


def test_a_model_without_a_run_has_a_report_too(folder):
    model, tokenizer = checkpoint.load(folder / "run")
    checkpoint.save(folder / "bare.safetensors", model, tokenizer)
    status, _, err = run("report", "bare.safetensors", "--out", "z.html", cwd=folder)
    assert (status, err) == (0, "")
    assert "A model without a run" in (folder / "z.html").read_text(encoding="utf-8")


def test_a_run_on_windows_is_looked_at_without_bos(folder):
    windows = ["--split", "windows", "--out", "windows"]
    assert run("train", *SMALL, *windows, cwd=folder)[0] == 0
    status, _, err = run("report", "windows", cwd=folder)
    assert (status, err) == (0, "")
    text = (folder / "windows" / "report.html").read_text(encoding="utf-8")
    assert '<span class="tag' not in text  # no sample is a window
    assert text.count("<li>") == 40
    report = Report(folder / "windows")
    assert all(report.tokenizer.BOS not in look.tokens for look in report.looks)
    status, out, _ = run("look", "windows", "ada", "--json", cwd=folder)
    assert json.loads(out)["characters"] == ["\n", *"ada"]

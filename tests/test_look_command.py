"""`microgpt look` as real processes: widths, colours, pipes, wide characters, long texts, files."""

import json
import os
import re
import struct
import subprocess

import pexpect
import pyte
import pytest
from command import COMMAND, environment, on_terminal, run
from rich.cells import cell_len
from test_look import Balance

from microgpt import checkpoint

TEXT = "ada\ngrace\nalan\nbarbara\n中文 $x$\n<b>&\n"
BLOCKS = set("░▒▓█▏▎▍▌▋▊▉")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory that holds a saved model of two layers of two heads."""
    folder = tmp_path_factory.mktemp("look")
    (folder / "text").write_text(TEXT, encoding="utf-8")
    shape = ["--n-embd", "4", "--n-head", "2", "--n-layer", "2", "--block-size", "8"]
    status, _, err = run(
        *("train", "--data", "text", *shape, "--num-steps", "30", "--out", "model"), cwd=folder
    )
    assert status == 0, err
    return folder


def look(folder, *arguments, **options):
    status, out, err = run("look", "model", *arguments, cwd=folder, **options)
    assert (status, err) == (0, "")
    return out


def test_each_character_has_its_probability_and_the_likeliest_five(folder):
    model, _ = checkpoint.load(folder / "model")
    seen, lines = model.look("ada"), look(folder, "ada", COLUMNS="120").splitlines()
    for t, name in enumerate(["a", "d", "a", "<>"]):
        fields = lines[1 + t].split()
        p = seen.probabilities[t, seen.tokens[t + 1]]
        assert fields[:4] == [str(t), name, f"{100 * p:.1f}%", f"{seen.surprise[t]:.2f}"]
        assert len(re.findall("%", lines[1 + t])) == 6
    assert lines[6].startswith("4 tokens, the end counted: ")
    assert lines[8].split("   ")[0].startswith("layer 1, head 0")
    assert len(lines) == 6 + 1 + 2 + 5 + 2


@pytest.mark.parametrize("width", [24, 33, 50, 80, 140])
@pytest.mark.parametrize("text", ["ada", "中文 $x$", ""])
def test_no_line_is_wider_than_the_terminal(folder, width, text):
    lines = look(folder, text, COLUMNS=str(width)).splitlines()
    table = lines[: lines.index("")]
    grids = [line for line in lines if set(line) & BLOCKS and "from" not in line]
    assert max(map(cell_len, [*table[1:], *grids])) <= width
    assert sum(line.count("%") for line in table) == 6 * (len(text) + 1)


def test_a_grid_wider_than_the_terminal_goes_on_below(folder):
    out = look(folder, "barbara", "--head", "1", COLUMNS="12")
    bands = re.findall(r"layer 1, head 1, columns (\d+) to (\d+)", out)
    assert bands == [("0", "3"), ("4", "7")]


def test_wide_characters_keep_the_columns(folder):
    lines = look(folder, "中文 $x$", "--head", "0").splitlines()
    first = [line for line in lines if re.match(r"(<>|中|文|␣|\$|x)", line)]
    assert len(first) == 7
    starts = {cell_len(line[: min(line.index(c) for c in "░▒▓█" if c in line)]) for line in first}
    assert starts == {3}


def test_a_text_longer_than_the_block_is_predicted_from_what_came_before(folder):
    model, tokenizer = checkpoint.load(folder / "model")
    text = "adagracealanbarbara"
    lines = look(folder, text, COLUMNS="120").splitlines()
    tokens = tokenizer.encode_document(text)
    for t in range(len(tokens) - 1):
        window = model.look(tokens[max(0, t + 1 - 8) : t + 2])
        p = window.probabilities[-1, tokens[t + 1]]
        assert lines[1 + t].split()[2] == f"{100 * p:.1f}%"
    assert "attention over the first block_size=8 positions:" in lines


def test_a_chosen_layer_and_head_alone_are_shown(folder):
    out = look(folder, "ada", "--layer", "0", "--head", "1")
    assert re.findall(r"layer \d, head \d", out) == ["layer 0, head 1"]
    for flag in ("--layer", "--head"):
        status, _, err = run("look", "model", "ada", flag, "2", cwd=folder)
        assert (status, err) == (1, f"microgpt: {flag} 2: this model has 0..1\n")


def test_an_ablated_head_changes_what_follows(folder):
    plain, ablated = look(folder, "ada"), look(folder, "ada", "--ablate", "0.1")
    assert plain != ablated
    status, _, err = run("look", "model", "ada", "--ablate", "0.2", cwd=folder)
    assert (status, err) == (1, "microgpt: no head (0, 2): layers are 0..1, heads 0..1\n")


def test_a_pipe_gets_no_escapes_and_an_ascii_one_no_blocks(folder):
    out = look(folder, "ada")
    assert "\x1b" not in out
    assert set(out) & BLOCKS
    plain = look(folder, "中文 $x$", PYTHONIOENCODING="ascii")
    assert plain.isascii()
    assert "\\u4e2d" in plain
    assert "#" in plain.split("\n\n")[2]


def test_a_terminal_shows_colours_unless_told_not_to(folder):
    for changes, coloured in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        with on_terminal(
            *("look", "model", "ada"),
            cwd=folder,
            dimensions=(60, 90),
            encoding="utf-8",
            **{"TERM": "xterm-256color", **changes},
        ) as process:
            process.expect(pexpect.EOF)
        screen = pyte.Screen(90, 60)
        pyte.Stream(screen).feed(process.before)
        cells = [cell for row in screen.buffer.values() for cell in row.values()]
        assert any(cell.fg != "default" for cell in cells) is coloured
        assert any(cell.data in BLOCKS for cell in cells)


def test_a_text_comes_from_a_pipe(folder):
    assert look(folder, "-", input="ada\n") == look(folder, "ada")


def test_json_has_every_figure_to_the_last_bit(folder):
    model, _ = checkpoint.load(folder / "model")
    seen, figures = model.look("中文 $x$"), json.loads(look(folder, "中文 $x$", "--json", "-"))
    assert figures["tokens"] == seen.tokens
    assert figures["characters"] == ["", *"中文 $x$", ""]
    assert figures["loss"].hex() == seen.loss.hex()
    assert figures["attention"] == seen.attention.tolist()
    assert figures["bits"] == seen.surprise.tolist()
    assert [len(best) for best in figures["alternatives"]] == [5] * 7
    assert json.loads(look(folder, "ada", "--json"))["characters"] == ["", *"ada", ""]
    assert look(folder, "ada", "--json", "ada.json") == ""
    assert json.loads((folder / "ada.json").read_text())["characters"] == ["", *"ada", ""]


@pytest.mark.parametrize("text", ["ada", "中文 $x$", "<b>&"])
def test_pictures_and_pages_are_written(folder, text):
    assert look(folder, text, "--png", "look.png", "--html", "look.html") == ""
    png = (folder / "look.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert min(struct.unpack(">II", png[16:24])) > 500
    assert look(folder, text, "--png", "--html") == ""  # the names by default
    page = (folder / "look.html").read_text(encoding="utf-8")
    shown = Balance(page)
    assert shown.count["figure"] == 4
    assert "script" not in shown.count
    assert not re.search(r"(src|href)=\"(?!data:)", page)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model"], "the following arguments are required: TEXT"),
        (["model", "ada", "--top", "0"], "argument --top: must be at least 1, not 0"),
        (["model", "ada", "--layer", "-1"], "must be a whole number from 0, not '-1'"),
        (["model", "ada", "--ablate", "3"], "must be LAYER.HEAD, as 0.2, not '3'"),
    ],
)
def test_a_wrong_command_line_is_named(folder, arguments, message):
    status, out, err = run("look", *arguments, cwd=folder)
    assert (status, out) == (2, "")
    assert message in err


def test_a_character_that_the_model_never_saw_is_named(folder):
    status, _, err = run("look", "model", "zoe", cwd=folder)
    assert status == 1
    assert err.startswith("microgpt: character 'z' is not in the vocabulary ")


def test_a_missing_package_is_said_with_the_command_that_installs_it(folder):
    (folder / "matplotlib.py").write_text("raise ModuleNotFoundError(name='matplotlib')")
    status, _, err = run(
        *("look", "model", "ada", "--png", "x.png"), cwd=folder, PYTHONPATH=str(folder)
    )
    (folder / "matplotlib.py").unlink()
    expected = "a picture needs matplotlib: pip install 'microgpt-cython[view]'"
    assert (status, err) == (1, f"microgpt: {expected}\n")
    assert not (folder / "x.png").exists()


def test_a_reader_that_has_left_ends_it_as_it_does_other_programs(folder):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*COMMAND, "look", "model", "ada"],
        cwd=folder, env=environment(), stdout=write, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")

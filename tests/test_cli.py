"""The command line as real processes: its output, its files and its error messages."""

import contextlib
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pyte
import pytest
from bits import bits
from command import COMMAND, environment, on_terminal, run, running
from golden.original import libm_fingerprint

from microgpt import __version__, checkpoint
from microgpt.commands import main, parser
from microgpt.engine import NAME, load
from microgpt.tokenizer import CharTokenizer
from microgpt.training import Training

with contextlib.suppress(ImportError):
    import optuna  # noqa: F401 (what imports it first is kept alive by an exception that it keeps)

GOLDEN = pathlib.Path(__file__).parent / "golden"
TEXT = "ada\ngrace\nalan\nedsger\nbarbara\ndonald\n"
SMALL = ["--data", "text", "--n-embd", "4", "--n-head", "2", "--block-size", "8"]
ENDLESS = ["train", *SMALL, "--num-steps", str(10**7)]

# What is too long to be read as a number; CPython before 3.10.7 reads it.
TOO_LONG = (
    "--n-embd: must be"
    if hasattr(sys, "get_int_max_str_digits")
    else "must be a multiple of n_head"
)


@pytest.fixture
def folder(tmp_path):
    """A working directory that holds a small text."""
    (tmp_path / "text").write_text(TEXT)
    return tmp_path


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A working directory that holds a saved model."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text").write_text(TEXT)
    status, _, _ = run("train", *SMALL, "--num-steps", "30", "--out", "model", cwd=folder)
    assert status == 0
    return folder


def shown(out):
    """Return the losses that lines of training show."""
    return re.findall(r"^step .* \| loss (\S+) ", out, re.MULTILINE)


def untimed(result):
    """Return a status and outputs without what differs from run to run: engine and seconds."""
    status, out, err = result
    return status, re.sub(r"\d+\.\d s|engine: \w+", "", out), err


def test_train_prints_what_the_original_prints(folder):
    status, out, err = run("train", *SMALL, "--num-steps", "2", "--num-samples", 2, cwd=folder)
    assert (status, err) == (0, "")
    assert re.fullmatch(
        r"num docs: 6\nvocab size: 12\nnum params: 320\nengine: [a-z]+\n"
        r"step    1 /    2 \| loss \d\.\d{4} \| mean \d\.\d{4} \| [\d.]+ s\n"
        r"step    2 /    2 \| loss \d\.\d{4} \| mean \d\.\d{4} \| [\d.]+ s\n"
        r"\n2 steps in [\d.]+ s; mean loss of the last 2: \d\.\d{4}\n"
        r"not saved \(--out DIR saves it\)\n"
        r"\n--- inference \(new text\) ---\n"
        r"sample  1: [a-z]*\nsample  2: [a-z]*\n",
        out,
    )


def test_train_gives_the_golden_losses_and_samples(compiled, tmp_path):
    if (GOLDEN / "libm.txt").read_text().split("\n")[1] != libm_fingerprint():
        pytest.skip("the golden figures belong to another libm; other tests compare engines")
    status, out, _ = run(
        *("train", "--data", GOLDEN / "names.txt", "--losses", "losses"),
        *("--engine", compiled.NAME),
        cwd=tmp_path,
    )
    assert status == 0
    golden = (GOLDEN / "names_1000.losses.hex").read_text().split()
    assert (tmp_path / "losses").read_text().split() == golden
    assert out.startswith("num docs: 32033\nvocab size: 27\nnum params: 4192\n")
    assert out.count("\nstep ") == 28
    names = (GOLDEN / "names_1000.samples").read_text().split()
    assert out.split("---\n")[1].split("\n")[:-1] == [
        f"sample {i + 1:2d}: {name}" for i, name in enumerate(names)
    ]


def test_engines_print_and_keep_the_same(compiled, folder):
    seen = {}
    for name in ("python", compiled.NAME):
        flags = ["--n-layer", "2", "--num-steps", "4", "--batch-size", "3", "--seed", "-7"]
        _, out, _ = run(
            *("train", *SMALL, *flags, "--engine", name, "--losses", "losses"),
            *("--out", "model", "--overwrite"),
            cwd=folder,
        )
        model = (folder / "model" / "model.safetensors").read_bytes()
        seen[name] = untimed((0, out, ""))[1], (folder / "losses").read_bytes(), model
    assert seen["python"] == seen[compiled.NAME]


@pytest.mark.parametrize("command", ["--help", "train", "run"])
@pytest.mark.parametrize("setting", ["MICROGPT_ENGINE", "MICROGPT_SIMD"])
def test_a_wrong_setting_is_one_line_that_lists_the_choices(setting, command, tmp_path):
    if setting == "MICROGPT_SIMD" and NAME == "python":
        pytest.skip("the oracle has no instruction sets to choose from")
    status, out, err = run(command, cwd=tmp_path, **{setting: "wrong"})
    assert (status, out) == (2, "")
    assert re.fullmatch(r"microgpt: no .*'wrong': choose one of .*\n", err)


def test_an_unknown_flag_leads_to_the_help_of_its_command(tmp_path):
    status, out, err = run("train", "--bogus", cwd=tmp_path)
    assert (status, out) == (2, "")
    assert err == "microgpt train: unrecognized arguments: --bogus (see microgpt train --help)\n"


def test_default_data_are_the_names_of_the_package(tmp_path):
    status, out, _ = run("train", "--num-steps", "1", "--num-samples", "0", cwd=tmp_path)
    assert status == 0
    assert out.startswith("num docs: 30000\nvocab size: 27\nnum params: 4192\nengine: ")


def test_losses_are_hexadecimal_floats_one_a_line(folder):
    _, out, _ = run("train", *SMALL, "--num-steps", 3, "--losses", "losses", cwd=folder)
    lines = (folder / "losses").read_text().splitlines()
    assert [float.fromhex(line).hex() for line in lines] == lines
    assert shown(out) == [f"{float.fromhex(line):.4f}" for line in lines]


def test_quiet_prints_the_bare_samples_alone(folder):
    _, out, _ = run("train", *SMALL, "--num-steps", 2, cwd=folder)
    status, quiet, err = run("train", *SMALL, "--num-steps", 2, "--quiet", "--out", "m", cwd=folder)
    assert (status, err) == (0, "")
    assert quiet.splitlines() == re.findall(r"sample +\d+: (.*)", out)


def test_underscores_and_hyphens_spell_the_same_flag(folder):
    hyphens = ["--num-steps", "2", "--learning-rate=0.02", "--eps-adam", "1e-7"]
    underscores = ["--num_steps", "2", "--learning_rate=0.02", "--eps_adam", "1e-7"]
    outputs = {
        untimed(run("train", *SMALL, *flags, cwd=folder)) for flags in (hyphens, underscores)
    }
    assert len(outputs) == 1
    assert outputs.pop()[0] == 0


def test_text_comes_through_standard_input(folder):
    flags = [*SMALL[2:], "--num-steps", "2"]
    piped = run("train", "--data", "-", *flags, cwd=folder, input=TEXT)
    assert untimed(piped) == untimed(run("train", "--data", "text", *flags, cwd=folder))


def test_seed_and_temperature_change_what_is_drawn(trained):
    def drawn(*flags):
        return run("sample", "model", *flags, cwd=trained)[1]

    assert drawn() == drawn("--seed", "42", "--temperature", "0.5")
    assert len({drawn(), drawn("--seed", "1"), drawn("--temperature", "5")}) == 3


def test_sample_gives_what_the_saved_model_generates(trained, engine):
    status, out, err = run(
        *("sample", "model", "--engine", engine.NAME, "--prompt", "ad", "--top-k", "3"),
        *("--num-samples", "4", "--temperature", "2", "--seed", "9"),
        cwd=trained,
    )
    assert (status, err) == (0, "")
    model, tokenizer = checkpoint.load(trained / "model", "python")
    rng = random.Random(9)
    expected = [
        tokenizer.decode(model.generate(tokenizer.encode("ad"), temperature=2.0, top_k=3, rng=rng))
        for _ in range(4)
    ]
    assert out.splitlines() == [f"sample {i + 1:2d}: {text}" for i, text in enumerate(expected)]
    assert all(text.startswith("ad") for text in expected)


def test_sample_with_quiet_prints_bare_lines(trained):
    _, out, _ = run("sample", "model", "--quiet", "--top-k", "1", cwd=trained)
    assert len(out.splitlines()) == 20
    assert len(set(out.splitlines())) == 1


def test_sample_beyond_ascii_survives_an_ascii_terminal(folder):
    (folder / "text").write_text("日本\n日\n", encoding="utf-8")
    flags = ["train", *SMALL, "--num-steps", "1", "--temperature", "9"]
    _, plain, _ = run(*flags, cwd=folder)
    status, escaped, err = run(*flags, cwd=folder, PYTHONIOENCODING="ascii")
    assert (status, err) == (0, "")
    assert escaped == plain.encode("ascii", "backslashreplace").decode()
    assert escaped != plain


def test_no_command_prints_help(tmp_path):
    assert run(cwd=tmp_path) == run("--help", cwd=tmp_path)
    status, out, err = run(cwd=tmp_path)
    assert (status, err) == (0, "")
    assert {"train", "sample", "verify"} <= set(out.split())


@pytest.mark.parametrize("command", ["train", "sample", "verify"])
def test_help_explains_every_flag_and_gives_examples(command, tmp_path):
    status, out, err = run(command, "--help", cwd=tmp_path)
    assert (status, err) == (0, "")
    flags = set(re.findall(r"(--[a-z0-9-]+)", out.split("\n\n")[0]))
    explained = set(re.findall(r"^  (?:-h, )?(--[a-z0-9-]+)", out, re.MULTILINE))
    assert flags <= explained
    assert f"  microgpt {command} " in out.split("examples:")[1]
    assert max(map(len, out.splitlines())) <= 100


def test_version_names_the_engine(tmp_path):
    status, out, _ = run("--version", cwd=tmp_path)
    assert (status, out) == (0, f"microgpt {__version__}, {NAME} engine\n")


def test_installed_command_is_the_module(tmp_path):
    script = pathlib.Path(sys.executable).with_name("microgpt")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stdout, done.stderr) == run("--version", cwd=tmp_path)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["train", "--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["tran"], "; did you mean train?"),
        (["help"], "; did you mean --help?"),
        (["train", "--steps", "4"], "unrecognized arguments: --steps 4; did you mean --num-steps?"),
        (["train", "--datas", "x"], "; did you mean --data?"),
        (["train", "--lr", "0.1"], "; did you mean --learning-rate?"),
        (["train", "--max_iters=10"], "; did you mean --num-steps?"),
        (["train", "-o", "run"], "; did you mean --out?"),
        (["sample", "run", "--start", "a"], "; did you mean --prompt?"),
        (["train", "-data", "x"], "; did you mean --data?"),
        (["train", "colors.txt"], "colors.txt; did you mean --data colors.txt?"),
        (["train", "--engine", "fusd"], "; did you mean fused?"),
        (["train", "--split", "line"], "; did you mean lines?"),
        (["train", "--seed", "9" * 5000], "must be a whole number, not '99999"),
        (["train", "more"], "unrecognized arguments: more"),
        (["train", "a\nb"], r"unrecognized arguments: a\nb"),
        (["train", "--data"], "expected one argument"),
        (["train", "--data", ""], "--data: must not be empty"),
        (["train", "--losses="], "--losses: must not be empty"),
        (["train", "--out", ""], "--out: must not be empty"),
        (["sample", ""], "DIR: must not be empty"),
        (["train", "--engine", "pytorch"], "invalid choice: 'pytorch' (choose from"),
        (["train", "--num-step", "3"], "unrecognized arguments: --num-step 3"),
        (["train", "--num-steps", "0"], "--num-steps: must be at least 1, not 0"),
        (["train", "--num-steps", "1e3"], "must be a whole number, not '1e3'"),
        (["train", "--num-steps", ""], "must be a whole number, not ''"),
        (["train", "--batch-size", "-1"], "--batch-size: must be at least 1, not -1"),
        (["train", "--seed", "x"], "--seed: must be a whole number, not 'x'"),
        (["train", "--n-embd", "nan"], "--n-embd: must be a whole number, not 'nan'"),
        (["train", "--n-embd", "9" * 5000], TOO_LONG),
        (["train", "--threads", "1025"], "--threads: must be at most 1024, not 1025"),
        (["train", "--n-head", "0"], "--n-head: must be at least 1, not 0"),
        (["train", "--n-embd", "6"], "n_embd (6) must be a multiple of n_head (4)"),
        (["train", "--n-layer", "2.5"], "--n-layer: must be a whole number, not '2.5'"),
        (["train", "--block-size", "many"], "--block-size: must be a whole number, not 'many'"),
        (["train", "--learning-rate", "fast"], "--learning-rate: must be a number, not 'fast'"),
        (
            ["train", "--learning-rate", "-1"],
            "--learning-rate: must be a finite number of at least 0",
        ),
        (["train", "--learning-rate", "nan"], "--learning-rate: must be a finite number"),
        (["train", "--beta1", "1"], "--beta1: must be at least 0 and below 1"),
        (["train", "--beta2", "-0.1"], "--beta2: must be at least 0 and below 1"),
        (["train", "--eps-adam", "inf"], "--eps-adam: must be a finite number of at least 0"),
        (["train", "--num-samples", "-1"], "--num-samples: must be at least 0, not -1"),
        (["train", "--temperature", "-1"], "--temperature: must be a finite number of at least 0"),
        (["train", "--temperature", "nan"], "--temperature: must be a finite number of at least 0"),
        (["sample"], "the following arguments are required: DIR"),
        (["sample", "m", "--top-k", "0"], "--top-k: must be at least 1, not 0"),
        (["sample", "m", "--temperature", "cold"], "must be a number, not 'cold'"),
        (["sample", "m", "--out", "m"], "unrecognized arguments: --out m"),
        (["verify", "--num-steps", "0"], "--num-steps: must be at least 1, not 0"),
    ],
)
def test_nonsense_on_the_command_line_is_one_line_and_status_2(flags, complaint, tmp_path):
    status, out, err = run(*flags, cwd=tmp_path)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert complaint in err
    assert len(err) < 400
    assert re.match(r"microgpt( train| sample| verify)?: ", err)
    assert err.endswith(" --help)\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["train", "--data", "missing"], "missing: No such file or directory"),
        (["train", "--data", "."], ".: Is a directory"),
        (["train", "--data", "binary"], "binary: line 1, byte 2: 0x00 is not text"),
        (["train", "--data", "empty"], "empty: no document in it"),
        (["train", "--data", "-"], "standard input: no document in it"),
        (["train", *SMALL, "--out", "text"], "text: File exists"),
        (["train", *SMALL, "--out", "text/m"], "text/m: Not a directory"),
        (["train", *SMALL, "--losses", "no/losses"], "no/losses: No such file or directory"),
        (["train", *SMALL, "--n-embd", "100000000"], "lower --n-embd"),
        (["train", *SMALL, "--n-layer", "9" * 30], "lower --n-embd, --n-layer"),
        (["train", *SMALL, "--batch-size", "9" * 20], "GiB on the "),
        (["train", *SMALL, "--block-size", "9" * 20, "--engine", "python"], "on the python engine"),
        (["verify", *SMALL, "--n-embd", "30000"], "GiB on the python engine, this machine has "),
        (["train", *SMALL, "--learning-rate", "1e5"], "training failed in step 2: "),
        (["train", *SMALL, "--eps-adam", "0", "--learning-rate", "0"], "larger --eps-adam"),
        (["train", *SMALL, "--num-steps", "1", "--temperature", "1e-320"], "higher --temperature"),
        (["sample", "missing"], "missing: No such file or directory"),
        (["sample", "."], "there is no model in it; expected is a directory that microgpt train"),
        (["sample", "text"], "text: no microgpt model: "),
        (["sample", "model", "--prompt", "É"], "character 'É' is not in the vocabulary"),
        (["sample", "model", "--prompt", "adaadaada"], "leaves no room: block_size is 8"),
        (["verify", "--data", "missing"], "missing: No such file or directory"),
    ],
)
def test_failure_is_one_line_that_names_the_cause_and_status_1(flags, complaint, trained):
    (trained / "binary").write_bytes(b"a\0")
    (trained / "empty").write_bytes(b"\n")
    status, _, err = run(*flags, "--seed", "1", cwd=trained)
    assert (status, err.count("\n")) == (1, 1)
    assert err.startswith("microgpt: ")
    assert complaint in err


# What no number is; and for a number's flag what it does take of these.
NO_NUMBER = ["", " ", "x", "½", "1,5", "1 2", "0x10", "nan", "inf", "-inf", "1e999", "-1"]
NO_NUMBER += ["None", "True", "[1]", "\x1b[2J", "\0", "\udcff", "--", "-", "--seed"]
TAKES = {"--seed": {"-1"}}
# Paths and text are any; these cannot be.
NO_PATH = ["", "\0", "a\0b", "x" * 5000, "no/such/place", "/dev/null/x", "--", "--seed"]
NO_NAME = ["", "x", "Python", "python ", "-", "cython,fused", "../python", "\0", "\udcff"]
NONSENSE = {"--data": NO_PATH, "--losses": NO_PATH, "--out": ["", "\0", "x" * 5000, "--", "--seed"]}
NONSENSE |= {"--val": ["", "\0", "2", "no/such/place"], "--stop": ["\0", "\udcff", "É"]}
NONSENSE |= {"--engine": NO_NAME, "--prompt": ["\0", "\udcff", "É", "a" * 5000]}


def flags_that_take_a_value():
    """Return (command, flag) of every flag that the command line knows, but those without."""
    (commands,) = [action for action in parser.build()._actions if action.choices]
    return [
        (command, flag)
        for command, parser in commands.choices.items()
        for action in parser._actions
        for flag in action.option_strings
        if action.nargs != 0
    ]


@pytest.mark.parametrize(("command", "flag"), flags_that_take_a_value())
def test_every_flag_refuses_every_kind_of_nonsense_in_one_line(
    command, flag, trained, monkeypatch, capsys
):
    monkeypatch.chdir(trained)
    before = sorted(trained.rglob("*"))
    given = ["sample", "model"] if command == "sample" else [command, *SMALL, "--num-steps", "1"]
    for value in NONSENSE.get(flag, NO_NUMBER):
        if value in TAKES.get(flag, ()) and command in ("sweep", "scale", "gradcheck"):
            continue  # no nonsense, and work that other tests do
        status = main([*given, flag, value])
        _, err = capsys.readouterr()
        if value in TAKES.get(flag, ()):
            assert (status, err) == (0, ""), value
            continue
        assert status in (1, 2), value
        assert err.count("\n") == 1, value
        assert re.match(f"microgpt(: | {command}: )", err), value
    assert sorted(trained.rglob("*")) == before


def test_every_flag_without_a_value_refuses_one(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    for command in (["train", "--quiet=no"], ["sample", "model", "--quiet=1"], ["--version=2"]):
        assert main(command) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_model_is_kept_where_its_directory_vanished_while_training(folder):
    with running(*ENDLESS, "--out", "model", cwd=folder) as process:
        for line in process.stdout:
            if line.startswith("step    5"):
                break
        shutil.rmtree(folder / "model")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert err.endswith(" of 10000000 steps; saved model/model.safetensors\n")
    checkpoint.load(folder / "model")


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--threads", "2", "--engine", "python"], "the python engine has one thread: --threads 2"),
        (["--threads", "1000"], "--threads 1000 is more than the "),
    ],
)
def test_threads_that_do_nothing_or_harm_get_a_word(folder, compiled, flags, word):
    if NAME != "fused":
        pytest.skip("has one thread")
    train = ["train", *SMALL, "--num-steps", "1", "--num-samples", "0", *flags]
    status, _, err = run(*train, cwd=folder)
    assert (status, err.count("\n")) == (0, 1)
    assert word in err
    assert run(*train, "--quiet", cwd=folder)[2] == ""


def test_settings_and_held_out_text_are_never_overwritten(folder):
    (folder / "run.toml").write_text("seed = 1\n")
    for flags in (
        ["--config", "run.toml", "--losses", "run.toml"],
        ["--val=text", "--losses=text"],
    ):
        status, _, err = run("train", *flags, cwd=folder)
        assert (status, err.count("\n")) == (2, 1)
        assert "--losses would overwrite --" in err
    assert (folder / "run.toml").read_text() == "seed = 1\n"
    assert (folder / "text").read_text() == TEXT


def test_losses_never_overwrite_the_data(folder):
    status, _, err = run("train", *SMALL, "--losses", "./text", cwd=folder)
    assert (status, err.count("\n")) == (2, 1)
    assert "--losses would overwrite --data" in err
    assert (folder / "text").read_text() == TEXT


def test_out_that_cannot_be_written_fails_before_training(folder):
    (folder / "model" / "model.safetensors").mkdir(parents=True)
    status, out, err = run("train", *SMALL, "--out", "model", cwd=folder)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "model/model.safetensors is a directory" in err


def test_reader_that_leaves_ends_the_program_in_silence(folder):
    command = subprocess.list2cmdline([*COMMAND, *ENDLESS])
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} --out model | head -n 5"],
        capture_output=True,
        cwd=folder,
        env=environment(),
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (141, "")
    assert done.stdout.splitlines()[0] == "num docs: 6"
    assert checkpoint.load(folder / "model")[0].config.n_embd == 4


def test_full_disk_under_the_output_is_one_line(folder):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, *ENDLESS],
            stdout=full,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=environment(),
            text=True,
        )
    assert (done.returncode, done.stderr) == (1, "microgpt: No space left on device\n")


def test_full_disk_under_the_losses_keeps_the_model(folder):
    status, out, err = run(*ENDLESS, "--losses", "/dev/full", "--out", "model", cwd=folder)
    assert (status, err) == (1, "microgpt: /dev/full: No space left on device\n")
    assert "step " not in out.split("num params")[0]
    checkpoint.load(folder / "model")


def test_closed_output_is_no_crash(folder):
    command = subprocess.list2cmdline([*COMMAND, "train", *SMALL, "--num-steps", "2"])
    done = subprocess.run(
        ["bash", "-c", f"{command} >&-"], capture_output=True, cwd=folder, env=environment()
    )
    assert (done.returncode, done.stderr) == (0, b"")


def weights_after(steps, num_steps):
    """Return the bits of the small model's weights after that many of num_steps steps."""
    engine = load("python")
    rng = random.Random(42)
    documents = TEXT.split()
    rng.shuffle(documents)
    tokenizer = CharTokenizer.from_documents(documents)
    model = engine.GPT(tokenizer.vocab_size, 4, 2, 1, 8, rng=rng)
    adam = engine.Adam(model.params, num_steps=num_steps)
    model.fit([tokenizer.encode_document(text) for text in documents], steps, adam=adam)
    return bits(*model.weights())


@pytest.mark.parametrize(
    ("signum", "expected"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_signal_ends_training_between_steps_and_saves(folder, engine, signum, expected):
    flags = ["--engine", engine.NAME, "--losses", "losses", "--out", "model"]
    with running(*ENDLESS, *flags, cwd=folder) as process:
        for line in process.stdout:
            if line.startswith("step    5"):
                break
        process.send_signal(signum)
        out, err = process.communicate(timeout=300)
    assert process.returncode == expected
    said = re.search(
        r"stopped after (\d+) of 10000000 steps; saved model/model.safetensors\n$", err
    )
    steps = int(said[1])
    assert err.count("\n") == 1
    assert "inference" not in out
    assert len((folder / "losses").read_text().splitlines()) == steps
    model, _ = checkpoint.load(folder / "model", "python")
    assert bits(*model.weights()) == weights_after(steps, 10**7)


def test_second_signal_ends_the_program_in_the_middle_of_a_step(folder):
    flags = ["--engine", "python", "--n-embd", "64", "--n-head", "1", "--batch-size", "20"]
    with running("train", "--data", "text", *flags, "--out", "model", cwd=folder) as process:
        for line in process.stdout:
            if line.startswith("num params"):
                break
        time.sleep(1)  # into the first step, which takes longer
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline().startswith("microgpt: stopping after this step")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (130, "microgpt: interrupted\n")
    assert Training.load(folder / "model").step == 0  # as it was saved before the first step


def test_interrupt_while_waiting_for_data_is_one_line(folder):
    with running("train", "--data", "-", cwd=folder, stdin=subprocess.PIPE) as process:
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(300) == 130
        assert process.stderr.read() == "microgpt: interrupted\n"


def test_interrupt_that_was_ignored_from_the_start_stays_ignored(folder):
    flags = ["train", *SMALL, "--engine", "python", "--num-steps", "200", "--log-every", "1"]
    with running(*flags, cwd=folder, interrupt=signal.SIG_IGN) as process:
        for line in process.stdout:
            if line.startswith("step    5 /  200"):
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    assert "step  200 /  200" in out


def terminal(folder, *flags, columns=100, term="xterm", act=None):
    """Run a command on a terminal; return its status and the lines that are left on the screen."""
    screen = pyte.Screen(columns, 60)
    stream = pyte.ByteStream(screen)
    with on_terminal(*flags, cwd=folder, dimensions=(60, columns), TERM=term) as child:
        if act is not None:
            stream.feed(act(child))
        stream.feed(child.read())
    return child.exitstatus, [line.rstrip() for line in screen.display if line.strip()]


@pytest.mark.parametrize("columns", [100, 60, 50])
def test_terminal_shows_a_bar_with_loss_speed_and_time_left(folder, columns):
    flags = ["train", *SMALL, "--num-steps", "5", "--num-samples", "1", "--losses", "losses"]
    status, lines = terminal(folder, *flags, columns=columns)
    assert status == 0
    assert lines[:3] == ["num docs: 6", "vocab size: 12", "num params: 320"]
    last = float.fromhex((folder / "losses").read_text().split()[-1])
    time = r"\d+:\d\d:\d\d"
    left = rf" left {time}" if columns == 100 else ""
    speed = r" [\d.,]+ steps/s" if columns >= 60 else ""
    assert re.fullmatch(rf"step 5 / 5 ━+ loss {last:.4f}{speed} {time}{left}", lines[4])
    assert lines[5].startswith("5 steps in ")
    assert lines[7].startswith("--- inference")
    assert lines[8].startswith("sample  1: ")
    assert len(lines) == 9


def test_dumb_terminal_gets_lines(folder):
    _, lines = terminal(folder, "train", *SMALL, "--num-steps", "2", term="dumb")
    assert lines[4].startswith("step    1 /    2 | loss ")


def test_interrupt_on_a_terminal_keeps_the_bar_and_the_model(folder):
    def interrupt(child):
        child.expect_exact("steps/s")
        seen = child.before + child.after
        time.sleep(0.3)
        child.sendintr()
        return seen

    status, lines = terminal(folder, *ENDLESS, "--out", "model", act=interrupt)
    assert status == 130
    assert re.search("microgpt: stopped after .*; saved model/model.safetensors", " ".join(lines))
    checkpoint.load(folder / "model")


def test_terminal_is_not_steered_by_what_a_model_says(folder):
    (folder / "text").write_text("a\x1b[2Jb\t\x9b\n")
    flags = ["train", *SMALL, "--num-steps", "1", "--temperature", "9"]
    piped = run(*flags, cwd=folder)[1].split("---\n")[1]
    status, lines = terminal(folder, *flags)
    assert status == 0
    assert "\x1b" in piped
    assert "\\x1b" in "".join(lines)
    assert len(lines) == 28


def test_line_longer_than_the_model_sees_trains_as_its_start(folder):
    flags = ["train", "--n-embd", "4", "--block-size", "3", "--num-steps", "3", "--data"]
    (folder / "long").write_text("abcdef\nfedcba\n")
    status, out, _ = run(*flags, "long", cwd=folder)
    rng = random.Random(42)
    documents = ["abcdef", "fedcba"]
    rng.shuffle(documents)
    model = load("python").GPT(7, 4, 4, 1, 3, rng=rng)
    tokenizer = CharTokenizer("abcdef")
    losses = model.fit([tokenizer.encode_document(text) for text in documents], 3)
    assert status == 0
    assert shown(out) == [f"{loss:.4f}" for loss in losses]


def test_main_returns_the_status_without_ending_the_interpreter(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main(["train", *SMALL, "--num-steps", "1", "--quiet", "--num-samples", "0"]) == 0
    assert main(["train", "--num-steps", "0"]) == 2
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("microgpt ")

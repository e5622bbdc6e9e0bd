"""Runs that are interrupted, killed, resumed, verified: equal by bits to an uninterrupted one."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import time
from array import array

import pytest
from bits import bits
from command import COMMAND, environment, run, running
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_checkpoint import JSON, places, rewrite

from microgpt import checkpoint, data
from microgpt.corpus import Corpus
from microgpt.log import LOG, Log, read_log
from microgpt.settings import Settings
from microgpt.training import Callbacks, Stop, Training, TrainingError

TEXT = "ada\ngrace\nalan\nedsger\nbarbara\ndonald\ntony\njohn\n"
SMALL = {"n_embd": 4, "n_head": 2, "block_size": 8, "batch_size": 2}
FLAGS = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with a small text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text(TEXT)
    return tmp_path


def small(**changes):
    return Settings(data="text", **{**SMALL, "num_steps": 24, **changes})


class StopAfter(Callbacks):
    """Ends training after a number of steps."""

    def __init__(self, steps):
        self.steps = steps

    def step(self, t, loss):
        if t + 1 == self.steps:
            raise Stop


class Together(StopAfter):
    together = True


@pytest.mark.parametrize("steps", [1, 2, 7, 24])
def test_steps_told_together_leave_what_steps_told_one_by_one_leave(
    folder, engine, monkeypatch, steps
):
    monkeypatch.setattr("microgpt.training.SHORT", math.inf)
    left = []
    for watch in (StopAfter(steps), Together(steps)):
        run = Training(small(engine=engine.NAME, out="run", overwrite=True, dropout=0.2))
        losses = run.fit(watch)
        dropout = run.model.dropout_rng.getstate()
        left.append((losses, run.step, list(run.recent), dropout, content(folder / "run")))
    assert left[0] == left[1]
    assert left[0][1] == steps


def content(directory):
    """Return what a run's directory holds: the files' bytes, and the log without its times."""
    files = {path.name: path.read_bytes() for path in directory.iterdir() if path.name != LOG}
    lines = [json.loads(line) for line in (directory / LOG).read_text().splitlines()]
    numbers = ("step", "loss", "val_loss", "rate", "norm", "tokens")
    return files, [[line[name] for name in numbers] for line in lines]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A folder with the runs `plain`, `held` and `dropped`, which were never interrupted."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    (folder / "text").write_text(TEXT)
    before = os.getcwd()
    os.chdir(folder)
    try:
        Training(small(out="plain", engine="python")).fit()
        Training(small(out="held", engine="python", val=0.3, eval_every=3)).fit()
        Training(small(out="dropped", engine="python", dropout=0.3)).fit()
    finally:
        os.chdir(before)
    return folder


@pytest.mark.parametrize(
    ("name", "more"),
    [("plain", {}), ("held", {"val": 0.3, "eval_every": 3}), ("dropped", {"dropout": 0.3})],
)
@pytest.mark.parametrize("steps", [1, 11, 23])
def test_resumed_run_is_the_uninterrupted_one_on_any_engine(
    uninterrupted, monkeypatch, engine, oracle, name, more, steps
):
    monkeypatch.chdir(uninterrupted)
    for first, second in ((engine.NAME, oracle.NAME), (oracle.NAME, engine.NAME)):
        shutil.rmtree("run", ignore_errors=True)
        Training(small(out="run", engine=first, **more)).fit(StopAfter(steps))
        threads = 3 if second == "fused" else 1
        resumed = Training.load("run", {"engine": second, "threads": threads})
        assert resumed.step == steps
        resumed.fit()
        assert content(uninterrupted / "run") == content(uninterrupted / name)


def test_samples_of_a_resumed_run_are_those_of_the_uninterrupted_one(folder):
    _, expected, _ = run("train", "--data", "text", *FLAGS, "--num-steps=9", "--quiet", cwd=folder)
    Training(small(out="run", num_steps=9)).fit(StopAfter(4))
    status, out, err = run("train", "--resume", "run", "--quiet", cwd=folder)
    assert (status, out, err) == (0, expected, "")


def test_process_killed_at_any_moment_loses_at_most_what_came_after_a_save(folder):
    whole = [*FLAGS, "--num-steps=4000", "--save-every=50", "--val=0.3", "--num-samples=0"]
    train = ["train", "--data", "text", *whole, "--out"]
    assert run(*train, "whole", cwd=folder)[0] == 0
    moments = random.Random(7)
    saved = folder / "run" / "model.safetensors"
    killed, before = 0, 0
    command = [*train, "run"]

    def version():
        return saved.stat().st_mtime_ns if saved.exists() else None

    for kill in range(40):
        last = version()
        with running(*command, cwd=folder) as process:
            # Every fourth process is killed while it starts, the others after a save of theirs.
            while kill % 4 and version() == last and process.poll() is None:
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.02))
            process.kill()
            killed += process.wait() == -signal.SIGKILL
        if not saved.exists():
            continue
        command = ["train", "--resume", "run", "--num-samples=0"]
        step = Training.load("run").step
        assert step >= before
        assert step % 50 == 0
        before = step
        if step == 4000:
            break
    assert killed >= 5
    (folder / "run" / ".model.safetensors.0a1b2c3d.tmp").touch()  # killed while it was written
    assert run(*command, cwd=folder)[0] == 0
    assert content(folder / "run") == content(folder / "whole")


def test_a_log_ends_where_a_resumed_run_ends(folder):
    Training(small(out="run")).fit(StopAfter(10))
    saved = (folder / "run" / "model.safetensors").read_bytes()
    Training.load("run").fit()
    (folder / "run" / "model.safetensors").write_bytes(saved)  # as if the rest were not saved
    Training.load("run").fit(StopAfter(12))
    assert [line["step"] for line in read_log("run/log.jsonl")] == [*range(1, 13)]


def test_a_norm_beyond_the_largest_float_is_null_in_the_log(tmp_path):
    log = Log(tmp_path / LOG, 0, 0.0)
    for t, norm in enumerate((0.5, math.inf, math.nan, None)):
        log.step(t, 1.0, 0.1, 3, 0.1 * t, norm)
    log.close()
    assert [line["norm"] for line in read_log(tmp_path / LOG)] == [0.5, None, None, None]


def test_an_equal_held_out_loss_is_no_better_one(folder):
    training = Training(small(learning_rate=0.0, val=0.3, eval_every=3, patience=4))
    training.fit()
    assert training.best[0] == 3
    assert training.step == 15


def test_a_lower_held_out_loss_begins_patience_again(folder, monkeypatch):
    losses = [3.0, 3.5, 2.0, 2.5, 2.6, 1.0]
    monkeypatch.setattr(Training, "evaluate", lambda self: losses.pop(0))
    training = Training(small(val=0.3, eval_every=3, patience=2))
    training.fit()
    assert (training.best, training.step) == ((9, 2.0), 15)


def step_line(step, loss=1.0):
    return json.dumps({"step": step, "loss": loss}) + "\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (step_line(1) + "{}\n" + step_line(2), "line 2"),
        (step_line(1) + "nonsense\n", "line 2"),
        (step_line(1) + step_line(1), "line 2"),
        (step_line(0), "line 1"),
        (step_line(1) + step_line(3) + step_line(2), "line 3"),
        (step_line(1, "low"), "line 1"),
    ],
)
def test_a_log_with_another_line_is_refused(tmp_path, text, said):
    (tmp_path / LOG).write_text(text)
    with pytest.raises(ValueError, match=f"{LOG}: {said} is not of a step after the last"):
        read_log(tmp_path / LOG)


@pytest.mark.parametrize("half", ["{", step_line(2)[:-3], "nonsense"])
def test_a_log_ends_before_a_line_half_written(tmp_path, half):
    (tmp_path / LOG).write_text(step_line(1) + half)
    assert [line["step"] for line in read_log(tmp_path / LOG)] == [1]


class Killed(BaseException):
    """Ends a process in the place of a signal."""


@pytest.mark.parametrize(
    ("rate", "saves"), [*((0.1, n) for n in range(1, 9)), *((0.003, n) for n in range(12, 19))]
)
def test_process_that_ends_between_two_files_goes_on_as_if_it_had_not(
    folder, monkeypatch, rate, saves
):
    # At 0.003 the held-out loss falls to the end: the last file but one is the best checkpoint.
    changes = {"val": 0.3, "eval_every": 2, "save_every": 5, "learning_rate": rate}
    save, count = Training.save, 0

    def save_until(self, path=None):
        nonlocal count
        count += 1
        if count == saves:
            raise Killed
        return save(self, path)

    Training(small(out="whole", **changes)).fit()
    monkeypatch.setattr(Training, "save", save_until)
    with pytest.raises(Killed):
        Training(small(out="run", **changes)).fit()
    monkeypatch.undo()
    os.chdir(folder)
    if saves == 1:  # before the first checkpoint
        return
    resumed = Training.load("run")
    if resumed.best is not None:  # its weights are there, and they are those
        assert resumed.best_model().evaluate(resumed.held_out).loss == resumed.best[1]
    resumed.fit()
    assert content(folder / "run") == content(folder / "whole")


def test_full_disk_under_the_log_is_one_line_and_keeps_the_run(folder):
    (folder / "run").mkdir()
    (folder / "run" / LOG).symlink_to("/dev/full")
    command = ["train", "--data", "text", *FLAGS, "--num-steps=100000", "--save-every=5"]
    status, _, err = run(*command, "--out", "run", "--overwrite", cwd=folder)
    assert (status, err) == (1, "microgpt: run/log.jsonl: No space left on device\n")
    assert Training.load("run").step >= 5


def test_full_disk_under_the_checkpoint_keeps_the_former_one(folder):
    Training(small(out="run", num_steps=6)).fit()
    before = (folder / "run" / "model.safetensors").read_bytes()
    limit = len(before) // 1024  # too few blocks of 1,024 bytes for another one
    line = subprocess.list2cmdline([*COMMAND, "train", "--resume", "run", "--num-steps", "9"])
    done = subprocess.run(
        ["bash", "-c", f"trap '' XFSZ; ulimit -f {limit}; {line}"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == "microgpt: run/model.safetensors: File too large\n"
    assert (folder / "run" / "model.safetensors").read_bytes() == before
    assert run("train", "--resume", "run", "--num-steps", 9, cwd=folder)[0] == 0
    assert run("verify", "run", cwd=folder)[1] == "identical: 9 losses, 352 weights\n"


def test_run_goes_on_to_more_steps_and_is_verified_with_its_history(folder, engine):
    Training(small(out="run", num_steps=6)).fit()
    Training.load("run", {"num_steps": 10, "engine": engine.NAME}).fit(StopAfter(8))
    Training.load("run", {"num_steps": 12}).fit()
    status, out, err = run("verify", "run", "--engine", engine.NAME, cwd=folder)
    weights = Training.load("run").model.config.num_params
    assert (status, out, err) == (0, f"identical: 12 losses, {weights:,} weights\n", "")
    assert Training.load("run").history == [[0, 6], [6, 10], [8, 12]]


def test_verify_notices_one_changed_loss_and_one_changed_weight(folder):
    Training(small(out="run", num_steps=6)).fit()
    log = (folder / "run" / LOG).read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    lines[3]["loss"] = math.nextafter(lines[3]["loss"], 9)
    (folder / "run" / LOG).write_text("".join(json.dumps(line) + "\n" for line in lines))
    status, out, _ = run("verify", "run", cwd=folder)
    assert (status, out.split(":")[:2]) == (1, ["different", " step 4, loss"])
    (folder / "run" / LOG).write_text(log)
    path = folder / "run" / "model.safetensors"
    body = array("d", rewrite(path, lambda header: None))
    body[5] = math.nextafter(body[5], 9)
    rewrite(path, lambda header: None, body.tobytes())
    status, out, _ = run("verify", "run", cwd=folder)
    assert (status, out.split(":")[:2]) == (1, ["different", " weight of wte[1][1]"])
    (folder / "run" / LOG).write_text("".join(reversed(log.splitlines(True))))
    assert run("verify", "run", cwd=folder)[::2] == (
        1,
        "microgpt: run/log.jsonl: line 2 is not of a step after the last\n",
    )


def test_run_whose_log_was_deleted_goes_on_and_verify_says_how_much_is_logged(folder):
    Training(small(out="run", num_steps=6)).fit()
    os.remove("run/log.jsonl")
    for num_steps in (8, 9):  # the second reads a log that begins in the midst
        Training.load("run", {"num_steps": num_steps}).fit()
    assert [line["step"] for line in read_log("run/log.jsonl")] == [7, 8, 9]
    status, out, _ = run("verify", "run", cwd=folder)
    assert (status, out) == (0, "identical: 3 of 9 losses, 352 weights\n")
    assert run("log", "run", "--csv", cwd=folder)[1].count("\n") == 4


def test_verify_of_a_run_takes_no_settings(folder):
    Training(small(out="run", num_steps=2)).fit()
    status, _, err = run("verify", "run", "--seed", "3", cwd=folder)
    assert (status, err.count("\n")) == (2, 1)
    assert "a saved run has its own settings: leave out --seed" in err


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--n-embd", "8"], "the run has n_embd 4, not 8: of the settings that decide"),
        (["--seed", "1"], "the run has seed 42, not 1"),
        (["--split", "windows"], "the run has split 'lines', not 'windows'"),
        (["--data", "other"], "the run was trained on another text than other with split lines"),
        (["--val", "0.3"], "text with split lines and val 0.3"),
        (["--num-steps", "3"], "4 steps are done: num_steps must be at least that, not 3"),
        (["--out", "elsewhere"], "leave out --out"),
        (["--num-steps", "0"], "must be at least 1"),
    ],
)
def test_resuming_another_run_than_the_saved_one_is_refused(folder, flags, complaint):
    (folder / "other").write_text(TEXT.upper())
    Training(small(out="run", num_steps=4)).fit()
    before = content(folder / "run")
    found, out, err = run("train", "--resume", "run", *flags, cwd=folder)
    assert (found, out, err.count("\n")) == (2, "", 1)
    assert complaint in err
    assert content(folder / "run") == before


def test_text_that_changed_is_noticed_and_one_that_moved_is_found(folder):
    Training(small(out="run", num_steps=4)).fit()
    (folder / "text").rename("moved")
    assert run("train", "--resume", "run", cwd=folder)[2].endswith("No such file or directory\n")
    assert run("train", "--resume", "run", "--data", "moved", "--num-steps", 5, cwd=folder)[0] == 0
    (folder / "moved").write_text(TEXT.replace("ada", "adb"))
    for command in (["train", "--resume", "run"], ["verify", "run"]):
        status, _, err = run(*command, cwd=folder)
        assert (status, "the run was trained on another text" in err) == (2, True)


def test_run_on_standard_input_is_resumed_with_the_same_text(folder):
    train = ["train", *FLAGS, "--num-steps", "5", "--out", "run", "--data", "-"]
    assert run(*train, cwd=folder, input=TEXT)[0] == 0
    resume = ["train", "--resume", "run", "--num-steps", "7"]
    assert run(*resume, cwd=folder, input=TEXT)[0] == 0
    assert run(*resume, cwd=folder, input="x")[0] == 2
    assert Training.load("run", {"data": "text"}).step == 7


def test_model_without_a_run_is_sampled_and_not_resumed(folder, oracle):
    training = Training(small())
    checkpoint.save(folder / "old.safetensors", training.model, training.tokenizer)
    assert run("sample", "old.safetensors", cwd=folder)[0] == 0
    assert "a model without a run" in run("train", "--resume", "old.safetensors", cwd=folder)[2]


def test_other_libm_is_named(folder, monkeypatch):
    Training(small(out="run", num_steps=4)).fit()
    assert Training.load("run").same_libm

    def change(header):
        state = json.loads(header["__metadata__"]["run"])
        header["__metadata__"]["run"] = json.dumps({**state, "libm": "another"})

    rewrite(folder / "run" / "model.safetensors", change)
    _, _, err = run("train", "--resume", "run", "--num-steps", 5, cwd=folder)
    assert "this machine's mathematics library is another" in err


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The checkpoint of a small run."""
    folder = tmp_path_factory.mktemp("saved")
    (folder / "text").write_text(TEXT)
    text = str(folder / "text")
    Training(Settings(data=text, **SMALL, num_steps=3, val=0.3, out=str(folder / "run"))).fit()
    return folder / "run" / "model.safetensors"


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_state_with_any_value_anywhere_is_refused_or_gives_a_run(saved, data):
    before = saved.read_bytes()

    def change(header):
        state = json.loads(header["__metadata__"]["run"])
        chosen = [place for place in places(state) if place[0] is not state["rng"][1]]
        container, key = data.draw(st.sampled_from([*chosen, (state["rng"][1], 7)]))
        container[key] = data.draw(JSON)
        header["__metadata__"]["run"] = json.dumps(state)

    try:
        rewrite(saved, change)
        Training.load(saved.parent)
    except (OSError, ValueError) as error:
        assert "\n" not in str(error)
    finally:
        saved.write_bytes(before)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"step": -1}, "its step is -1"),
        ({"stale": -1}, "its stale is -1"),
        ({"documents": 2.0}, "its documents is 2.0"),
        ({"step": 4}, r"its step is 4, its history \[\[0, 3\]\]"),
        ({"step": 1, "history": [[0, 2], [2, 3]]}, "its step is 1"),
        ({"history": [[0, 4]]}, "its history does not lead to its settings"),
        ({"history": [[1, 3]]}, "its history does not lead to its settings"),
        ({"history": [[0, 3.0]]}, "its history is not of pairs of steps"),
        ({"history": [[0, 3, 3]]}, "its history"),
        ({"best": [1.0, 2.0]}, "its best is not a step and a loss"),
        ({"best": [1, 2]}, "its best is not a step and a loss"),
        ({"sha256": 3}, "its sha256 is not text"),
    ],
    ids=str,
)
def test_state_that_cannot_be_says_what_is_wrong(saved, change, said):
    before = saved.read_bytes()

    def edit(header):
        state = json.loads(header["__metadata__"]["run"])
        header["__metadata__"]["run"] = json.dumps({**state, **change})

    try:
        rewrite(saved, edit)
        with pytest.raises(ValueError, match=said):
            Training.load(saved.parent)
    finally:
        saved.write_bytes(before)


def finite_weights_after(steps, **changes):
    """Return the weights of a run of the oracle after so many steps."""
    training = Training(small(engine="python", **changes))
    training.replay([], steps)
    return bits(*training.model.weights())


def test_failing_step_keeps_the_weights_before_it(folder, engine):
    wild = {"learning_rate": 1e5, "seed": 1, "num_steps": 30}
    with pytest.raises(TrainingError, match=r"failed in step [0-9]+: the loss is no longer a num"):
        Training(small(engine=engine.NAME, out="run", **wild)).fit()
    training = Training.load("run")
    assert training.step > 0
    assert bits(*training.model.weights()) == finite_weights_after(training.step, **wild)
    status, _, err = run("train", "--resume", "run", cwd=folder)
    assert (status, err.count("\n")) == (1, 1)
    said = f"training failed in step {training.step + 1}: the loss is no longer a number; saved "
    assert said + f"run/model.safetensors, the weights after {training.step} steps; " in err
    assert run("sample", "run", "--num-samples", 0, cwd=folder)[0] == 0


@pytest.mark.parametrize("save_every", [2, 4, 100])
def test_loss_that_is_not_a_number_keeps_the_last_finite_weights(
    folder, engine, monkeypatch, save_every
):
    fit = engine.GPT.fit

    def poisoned(self, *rest, on_step=None, **named):
        def report(t, loss):
            if t == 6:  # as if a product had overflowed in this step and the one before
                self.set_weights([math.nan] * len(self.params))
            on_step(t, math.nan if t == 6 else loss)

        return fit(self, *rest, on_step=on_step and report, **named)

    monkeypatch.setattr(engine.GPT, "fit", poisoned)
    training = Training(small(engine=engine.NAME, out="run", save_every=save_every))
    with pytest.raises(TrainingError, match="failed in step 7: the loss is no longer a number"):
        training.fit(Callbacks())  # which is told each step by itself
    monkeypatch.undo()
    os.chdir(folder)
    training = Training.load("run")
    assert training.step == 6
    assert bits(*training.model.weights()) == finite_weights_after(6)
    assert len(read_log("run/log.jsonl", 6)) == 6


def test_best_checkpoint_has_the_weights_of_the_lowest_held_out_loss(folder):
    run_ = Training(small(out="run", val=0.3, eval_every=4, learning_rate=0.2, num_steps=40))
    run_.fit()
    lines = read_log("run/log.jsonl")
    seen = {line["step"]: line["val_loss"] for line in lines if line["val_loss"] is not None}
    assert sorted(seen) == list(range(4, 41, 4))
    best = min(seen, key=lambda step: (seen[step], step))
    assert run_.best == (best, seen[best])
    assert best < 40  # or the weights kept would be the last ones
    kept = checkpoint.read("run")
    assert kept.run["step"] == best
    assert bits(*kept.weights) == bits(*run_.best_model().weights())
    assert bits(*checkpoint.read("run", best=False).weights) == bits(*run_.model.weights())
    assert run("sample", "run", cwd=folder)[1] != run("sample", "run", "--keep=last", cwd=folder)[1]


def test_patience_ends_training_and_the_end_is_kept(folder):
    flags = ["--num-steps=400", "--val=0.3", "--eval-every=4", "--learning-rate=0.2"]
    train = ["train", "--data", "text", *FLAGS, *flags, "--patience", 3, "--out", "run"]
    status, out, _ = run(*train, cwd=folder)
    assert status == 0
    assert "ended after 3 evaluations without a lower one" in out
    training = Training.load("run")
    assert training.step == training.best[0] + 12 < 400
    status, out, _ = run("train", "--resume", "run", cwd=folder)
    assert (status, "\nstep " in out) == (0, False)
    assert run("verify", "run", cwd=folder)[0] == 0


def test_keep_last_keeps_no_best(folder):
    Training(small(out="run", val=0.3, keep="last")).fit()
    assert sorted(os.listdir("run")) == [LOG, "model.safetensors"]


def test_held_out_documents_are_the_last_of_the_shuffled_list_and_change_no_step(folder):
    whole, held = Corpus.of(small()), Corpus.of(small(val=0.3))
    assert held.training + held.held_out == whole.training
    assert len(held.held_out) == 2
    steps = len(held.training) // 2
    losses = Training(small(num_steps=steps)).fit()
    assert bits(*Training(small(num_steps=steps, val=0.3)).fit()) == bits(*losses)


def test_held_out_file_adds_its_characters_to_the_vocabulary(folder):
    (folder / "held").write_text("ada\nzoë\n")
    corpus = Corpus.of(small(val="held"))
    assert corpus.held_out == ["ada", "zoë"]
    assert set(corpus.chars) >= set("zoë")
    assert corpus.training == Corpus.of(small()).training


def test_windows_train_on_the_whole_text_without_a_beginning(folder, engine):
    book = "to be, or not to be:\nthat is the question.\n"
    (folder / "text").write_text(book)
    training = Training(small(split="windows", engine=engine.NAME, num_steps=4))
    assert "\n" in training.tokenizer.chars
    pieces = data.documents("text", "windows", 8)
    random.Random(42).shuffle(pieces)
    assert [training.tokenizer.decode(tokens) for tokens in training.tokens] == pieces
    oracle = Training(small(split="windows", engine="python", num_steps=4))
    assert bits(*training.fit()) == bits(*oracle.fit())


def test_existing_run_is_overwritten_only_if_asked(folder):
    train = ["train", "--data", "text", *FLAGS, "--num-steps", 4, "--out", "run"]
    assert run(*train, "--val=0.3", cwd=folder)[0] == 0
    before = content(folder / "run")
    for name in ("model.safetensors", "best.safetensors", LOG):
        status, out, err = run(*train, cwd=folder)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert "is there already: name another --out, go on with --resume run" in err
        assert content(folder / "run") == before
        (folder / "run" / name).rename(folder / name)
        assert run(*train, cwd=folder)[0] == 2  # any file of a run is one
        (folder / name).rename(folder / "run" / name)
    assert run(*train, "--overwrite", cwd=folder)[0] == 0
    assert sorted(os.listdir("run")) == [LOG, "model.safetensors"]


def test_settings_of_a_run_are_printed_as_it_would_be_resumed(folder):
    Training(small(out="run", num_steps=4)).fit()
    before = content(folder / "run")
    out = run("train", "--resume", "run", "--num-steps", 6, "--print-config", cwd=folder)[1]
    assert "num_steps = 6\n" in out
    assert 'out = "run"\n' in out
    assert content(folder / "run") == before


def test_settings_are_printed_as_toml_and_read_back(folder):
    flags = [*FLAGS, "--num-steps=3", "--val=0.3", "--prompt", 'a"\\é\n', "--data", "text"]
    status, toml, _ = run("train", *flags, "--print-config", cwd=folder)
    assert status == 0
    (folder / "run.toml").write_text(toml, encoding="utf-8")
    assert run("train", "--config", "run.toml", "--print-config", cwd=folder)[1] == toml
    train = ["train", "--config", "run.toml", "--prompt", "a", "--seed", "5", "--out", "run"]
    assert run(*train, cwd=folder)[0] == 0
    found = Training.load("run").settings
    assert (found.seed, found.n_embd, found.val, found.prompt) == (5, 4, 0.3, "a")


@pytest.mark.parametrize(
    ("toml", "complaint"),
    [
        ("n_embed = 4", "run.toml: no setting 'n_embed'; did you mean n_embd?"),
        ("lr = 0.1", "run.toml: no setting 'lr'; did you mean learning_rate?"),
        ("n_embd = 4.0", "run.toml: n_embd must be a whole number, not 4.0"),
        ("seed = true", "run.toml: seed must be a whole number, not True"),
        ("quiet = 1", "run.toml: quiet must be true or false, not 1"),
        ("val = 1.5", "run.toml: val must be above 0 and below 1, not 1.5"),
        ("val = true", "run.toml: val must be a share or a file, not True"),
        ("val = [0.1]", "run.toml: val must be a share or a file, not [0.1]"),
        ("split = 'windws'", "not 'windws'; did you mean windows?"),
        ("[train]\nseed = 1", "run.toml: no setting 'train'"),
        ("seed = ", "run.toml: no TOML: "),
        ("seed = 1\nseed = 2", "run.toml: no TOML: "),
        ("learning_rate = nan", "must be a finite number of at least 0"),
        ("n_embd = 6", "n_embd (6) must be a multiple of n_head (4)"),
        ("patience = 2", "patience needs a held-out set"),
        ("keep = 'best'", "keep best needs a held-out set"),
    ],
)
def test_file_of_settings_that_is_wrong_is_one_line(folder, toml, complaint):
    (folder / "run.toml").write_text(toml)
    status, out, err = run("train", "--config", "run.toml", "--out", "run", cwd=folder)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert complaint in err
    assert not (folder / "run").exists()


def test_settings_check_themselves():
    with pytest.raises(ValueError, match="num_steps must be at least 1, not 0"):
        Settings(num_steps=0)
    with pytest.raises(TypeError, match=r"num_steps must be a whole number, not 1\.0"):
        Settings(num_steps=1.0)
    with pytest.raises(TypeError, match="n_embd must be a whole number, not True"):
        Settings(n_embd=True)
    assert Settings(learning_rate=1) == Settings(learning_rate=1.0)
    assert Settings(data="x").replaced(seed=2).seed == 2


def test_lines_in_a_pipe_are_few_and_as_many_as_asked(folder):
    train = ["train", "--data", "text", *FLAGS, "--num-steps", "1234", "--num-samples", "0"]
    steps = [line.split()[1] for line in run(*train, cwd=folder)[1].splitlines() if "/ " in line]
    assert steps[:11] == [*map(str, range(1, 11)), "20"]
    assert steps[-3:] == ["900", "1000", "1234"]
    out = run(*train, "--log-every", "500", cwd=folder)[1]
    assert [line.split()[1] for line in out.splitlines() if "/ " in line] == ["500", "1000", "1234"]


def test_samples_while_training_change_no_number(folder):
    train = ["train", "--data", "text", *FLAGS, "--num-steps", "8", "--num-samples", "2"]
    plain = run(*train, cwd=folder)[1]
    watched = run(*train, "--sample-every", "3", cwd=folder)[1]
    assert watched.count("--- samples after step ") == 2
    assert plain.split("---\n")[-1] == watched.split("---\n")[-1]

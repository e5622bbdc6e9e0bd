"""Sweeps: the same trials whatever ends first or is killed, each of them a run."""

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3

import pytest
from command import run, running
from sweeping import (
    FIXED,
    FLAGS,
    TEXT,
    VARIES,
    Here,
    children,
    content,
    optuna,
    stored,
    swept,
    wait_for,
)

from microgpt import commands, engine, verify
from microgpt.settings import FIELDS
from microgpt.sweep import Results, space, trial
from microgpt.sweep.search import Sweep
from microgpt.sweep.space import Range, Space
from microgpt.sweep.study import Asking
from microgpt.sweep.trial import Result
from microgpt.sweep.workers import Processes


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with a small text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text(TEXT)
    return tmp_path


@pytest.fixture(autouse=True, scope="module")
def no_text_is_kept(nothing_is_left_alive):
    """Drop the texts that trials in this process read, before objects are counted."""
    yield
    trial._corpus.cache_clear()


@pytest.mark.parametrize(
    ("name", "text", "domain"),
    [
        ("n_embd", "16,32,64", (16, 32, 64)),
        ("n_embd", "16", 16),
        ("n_layer", "1:3", Range(1, 3)),
        ("n_layer", "1:9:4", Range(1, 9, step=4)),
        ("dropout", "0:0.3", Range(0.0, 0.3)),
        ("dropout", "0:0.3:0.1", Range(0.0, 0.3, step=0.1)),
        ("learning_rate", "log:1e-3:3e-2", Range(1e-3, 3e-2, log=True)),
        ("schedule", "linear,cosine", ("linear", "cosine")),
        ("val", "0.1,0.2", (0.1, 0.2)),
        ("data", "https://example.org/words.txt", "https://example.org/words.txt"),
    ],
)
def test_space_is_read_and_written(name, text, domain):
    assert space.parsed(FIELDS[name], text) == domain
    other = {"seed": (1, 2), "val": 0.1}
    values = {**other, name: domain}
    kept = json.loads(json.dumps(Space.of(values).as_json()))
    assert Space.of(space.from_mapping(kept, "file")) == Space.of(values)


def test_steps_of_a_range_are_the_numbers_that_one_would_write():
    assert Range(0.0, 0.3, step=0.1).values() == [0.0, 0.1, 0.2, 0.3]
    assert Range(1, 4).values() == [1, 2, 3, 4]
    assert Range(1, 9, step=3).values() == [1, 4, 7]


@pytest.mark.parametrize("name", space.SETTINGS)
def test_every_setting_of_train_that_a_run_can_have_takes_values(name, folder):
    values = {int: "4,8", float: "0.25,0.5"}.get(space.table.kind(FIELDS[name]))
    choices = FIELDS[name].metadata.get("choices")
    values = values or {"val": "0.25,0.5", "engine": "python,cython"}.get(name)
    values = values or ",".join(choices or ("text", "other"))
    domain = space.parsed(FIELDS[name], values)
    assert len(domain) > 1
    fixed = {"data": "text", "model": "mlp"} if name == "n_hidden" else {"data": "text"}
    fixed |= {"learning_rate": 1.0} if name == "min_lr" else {}
    fixed.pop(name, None)
    fixed |= {} if name == "val" else {"val": 0.1}
    problems = [Space({name: domain}, fixed).problem({name: value}) for value in domain]
    assert problems[-1] is None


BAD = [
    ("--n-embd 16", "nothing varies"),
    ("--n-embd 15,17", "a space without a trial"),
    ("--n-embd 15,17 --sampler grid", "a space without a trial: n_embd"),
    ("--dropout 0.3:0.1", "must not be an empty range: 0.3 is not below 0.1"),
    ("--dropout 0:0.3 --sampler grid", "a grid needs values of dropout"),
    ("--dropout 0:1", "below 1"),
    ("--learning-rate log:0:1", "above 0 for a logarithm"),
    ("--learning-rate log:1:2:3", "must be as 16,32,64"),
    ("--learning-rate 1:2:0", "a step above 0"),
    ("--n-embd 16,16", "16 twice"),
    ("--n-embd 16,", "must be a whole number"),
    ("--n-embed 16,32", "did you mean --n-embd?"),
    ("--schedule cosin,linear", "did you mean cosine?"),
    ("--sampler tpee --n-embd 8,16", "did you mean tpe?"),
    ("--n-embd 8,16 --trials 0", "at least 1"),
    ("--n-embd 8,16 --val 1,0.1", "below 1"),
    ("--n-embd 8,16 --storage nothing://x", "nothing://x"),
    ("--n-embd 8,16 --storage journal:", "journal:: it names no file"),
    ("--n-embd 8,16 --engine fusd", "no engine 'fusd': choose one of"),
    ("--engine fused,fusd", "no engine 'fusd': choose one of"),
    ("--seed 0:10000 --sampler grid", "a grid of more than 10,000 values of seed"),
    ("--config trials.toml", "trials.toml: trials must be a whole number"),
    ("--config space.toml", "space.toml: no setting 'n_embed'; did you mean n_embd?"),
    ("--losses x --n-embd 8,16", "unrecognized"),
    ("shw out", "did you mean show?"),
]


@pytest.mark.parametrize(("flags", "message"), BAD)
def test_bad_input_is_one_line_and_makes_nothing(folder, capsys, flags, message):
    (folder / "space.toml").write_text("n_embed = [8, 16]\n")
    (folder / "trials.toml").write_text("n_embd = [8, 16]\ntrials = true\n")
    words = flags.split()
    given = words if words[0] == "shw" else [*words, "--data", "text", "--out", "out"]
    assert commands.main(["sweep", *given]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (folder / "out" / "sweep.json").exists()


def test_a_file_says_what_flags_say(folder):
    (folder / "space.toml").write_text(
        'learning-rate = "log:0.001:0.3"\nn_embd = [2, 4, 6]\ntrials = 3\nsampler = "random"\n'
    )
    flags = [*FLAGS, "--jobs", "1"]
    assert commands.main(["sweep", "--config", "space.toml", "--out", "file", *flags]) == 0
    given = ["--learning-rate", "log:1e-3:0.3", "--n-embd", "2,4,6", "--trials", "3"]
    assert commands.main(["sweep", *given, "--sampler=random", "--out", "flags", *flags]) == 0
    assert content(folder / "file") == content(folder / "flags")


@pytest.mark.parametrize("pruner", ["none", "median"])
@pytest.mark.parametrize("sampler", ["random", "grid"])
def test_random_and_grid_are_the_same_for_any_number_of_jobs(folder, sampler, pruner):
    rates = tuple(0.3 / 3**i for i in range(11))
    values = VARIES if sampler == "random" else {"learning_rate": rates, "n_embd": (2, 4)}
    rules = {"sampler": sampler, "pruner": pruner, "trials": 22, "varies": values}
    rules |= {"fixed": {"num_steps": 10}, "storage": None}
    swept(folder / "one", Here(1), **rules)
    swept(folder / "many", Here(22), **rules)
    assert content(folder / "one") == content(folder / "many")
    assert stored(folder / "one") == stored(folder / "many")
    states = {r[1] for r in content(folder / "one").values()}
    assert states == ({"complete"} if pruner == "none" else {"complete", "pruned"})
    if sampler == "grid":
        points = {tuple(r[0].values()) for r in content(folder / "one").values()}
        assert len(points) == 22


def test_tpe_is_the_same_for_the_same_jobs_and_for_fewer_workers(folder):
    rules = {"sampler": "tpe", "trials": 14, "fixed": {"num_steps": 2}}
    swept(folder / "a", Here(4), round=4, **rules)
    swept(folder / "b", Here(4), round=4, **rules)
    swept(folder / "few", Here(2), round=4, **rules)
    swept(folder / "other", Here(2), round=2, **rules)
    assert content(folder / "a") == content(folder / "b") == content(folder / "few")
    assert content(folder / "a") != content(folder / "other")


def test_another_seed_makes_other_trials(folder):
    points = [
        [r.params for r in swept(folder / str(seed), fixed={"seed": seed}).trials.values()]
        for seed in (1, 2)
    ]
    assert points[0] != points[1]


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_a_sweep_that_is_stopped_anywhere_goes_on_to_the_same_trials(folder, sampler):
    grid = {"learning_rate": (0.5, 0.01, 0.1), "n_embd": (2, 4, 6, 8)}
    values = grid if sampler == "grid" else VARIES
    rules = {"sampler": sampler, "trials": 12, "round": 3}
    varies = Space(dict(values), {**FIXED, "num_steps": 6})
    sweep = Sweep.create("whole", varies, **rules)
    assert sweep.run(Here(3))
    sweep.close()
    Sweep.create("parts", varies, **rules).close()
    for _ in range(20):
        sweep = Sweep("parts")
        steps = iter(range(2))
        done = sweep.run(Here(3), stopped=lambda steps=steps: next(steps, None) is None)
        sweep.close()
        if done:
            break
    assert done
    assert content(folder / "parts") == content(folder / "whole")
    assert stored(folder / "parts") == stored(folder / "whole")


def test_settings_that_do_not_go_together_are_not_drawn(folder):
    varies = {"n_embd": Range(1, 8), "n_head": (1, 2, 4)}
    results = swept(folder / "out", varies=varies, fixed={"num_steps": 2})
    assert {r.state for r in results.trials.values()} == {"complete"}


@pytest.mark.parametrize("state", ["complete", "failed"])
def test_tpe_draws_settings_that_go_together_and_learns_which_are_best(state):
    values = {"n_embd": tuple(range(1, 13)), "learning_rate": Range(0.0, 1.0)}
    points = []
    asking = Asking(Space(values, {"n_head": 4, "val": 0.1}), "tpe", 42)
    again = Asking(Space(values, {"n_head": 4, "val": 0.1}), "tpe", 42)
    count = 50 if state == "complete" else 15
    for number in range(count):
        points.append(asking.ask())
        assert again.ask(points[-1] if number < count // 2 else None) == points[-1]
        loss = (points[-1]["learning_rate"] - 0.3) ** 2 if state == "complete" else None
        for one in (asking, again):
            one.tell(Result(number, "", points[-1], state, loss))
    assert {point["n_embd"] for point in points} == {4, 8, 12}
    if state == "complete":
        late = [abs(point["learning_rate"] - 0.3) for point in points[30:]]
        assert sorted(late)[len(late) // 2] < 0.1


def test_a_trial_that_fails_says_why_and_the_others_go_on(folder):
    results = swept(
        folder / "out",
        varies={"learning_rate": (1e300, 0.01)},
        sampler="grid",
        trials=2,
        storage=None,
    )
    states = {r.params["learning_rate"]: r for r in results.trials.values()}
    assert states[1e300].state == "failed"
    assert "no longer a number" in states[1e300].error
    assert states[0.01].state == "complete"
    assert {state for _, state, _ in stored(folder / "out")} == {"FAIL", "COMPLETE"}


def test_every_trial_is_a_run(folder):
    results = swept(folder / "out", trials=1, varies={"n_embd": (4, 8)})
    path = str(results.path(0))
    assert verify.again(path, None, lambda t, loss: None).difference is None
    assert commands.main(["plot", path]) == 0
    assert commands.main(["train", "--resume", path, "--num-steps", "30"]) == 0
    assert commands.main(["report", path]) == 0


def test_trials_are_pruned_where_optuna_would_prune_them(folder):
    varies = {"learning_rate": tuple(10 ** (-i / 4) for i in range(6)), "n_embd": (2, 4)}
    rules = {"sampler": "tpe", "pruner": "median", "trials": 30, "round": 4}
    results = swept(folder / "out", varies=varies, fixed={"eval_every": 3}, **rules)
    study = optuna.create_study(pruner=optuna.pruners.MedianPruner(5))
    assert {r.state for r in results.trials.values()} == {"complete", "pruned"}
    for first in range(0, 30, 4):
        group = [results.trials[number] for number in range(first, min(first + 4, 30))]
        for result in group:
            trial = optuna.trial.Trial(study, study._storage.create_new_trial(study._study_id))
            verdicts = []
            for step, loss in result.evaluations:
                trial.report(loss, step)
                verdicts.append(trial.should_prune())
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            last = result.state == "pruned"
            assert verdicts == [False] * (len(verdicts) - last) + [True] * last
        for result in group:
            if result.state == "complete":
                told = {"value": result.val_loss, "intermediate_values": dict(result.evaluations)}
                study.add_trial(optuna.trial.create_trial(**told))


def test_a_pruned_trial_can_be_trained_to_its_end(folder):
    varies = {"learning_rate": tuple(10 ** (-i / 4) for i in range(24))}
    results = swept(folder / "out", varies=varies, sampler="grid", pruner="median", trials=24)
    pruned = next(r for r in results.trials.values() if r.state == "pruned")
    assert pruned.steps < 20
    path = str(results.path(pruned.number))
    assert commands.main(["train", "--resume", path]) == 0
    assert verify.again(path, None, lambda t, loss: None).difference is None


def test_standard_input_is_kept_for_the_trials(folder):
    flags = [f for f in FLAGS if "data" not in f]
    status, _, error = run(
        "sweep", "--data=-", "--n-embd=2,4", "--sampler=grid", "--out=out", "--jobs=1", *flags,
        cwd=folder, input=TEXT,
    )  # fmt: skip
    assert (status, error) == (0, "")
    assert (folder / "out" / "text.txt").read_text() == TEXT
    assert verify.again(folder / "out/trials/0000", None, lambda t, loss: None).difference is None


LONG = [
    "--n-embd=2,4,6,8", "--num-steps=3000", "--save-every=100", "--sampler=grid", "--jobs=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """What the sweep of LONG comes to."""
    if engine.NAME == "python":
        pytest.skip("its trainings take minutes there")
    folder = tmp_path_factory.mktemp("long")
    (folder / "text").write_text(TEXT)
    flags = [flag for flag in FLAGS if "num-steps" not in flag]
    assert run("sweep", *flags, *LONG, "--out=out", cwd=folder)[0] == 0
    return content(folder / "out"), flags


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="finds processes in /proc")
@pytest.mark.parametrize("victim", ["client", "worker", "interrupt"])
def test_a_sweep_whose_processes_are_killed_loses_nothing(folder, long, victim):
    expected, flags = long
    trials = folder / "out" / "trials"
    with running("sweep", *flags, *LONG, "--out=out", cwd=folder) as process:
        wait_for(lambda: list(trials.glob(".*/*/log.jsonl")))
        wait_for(lambda: len(children(process.pid)) == 2)
        if victim == "worker":
            for child in children(process.pid):
                os.kill(child, signal.SIGKILL)
            assert process.wait() == 0
        else:
            process.send_signal(signal.SIGKILL if victim == "client" else signal.SIGINT)
            status = process.wait()
            assert status == (-9 if victim == "client" else 130)
            if victim == "interrupt":
                assert "go on with microgpt sweep --resume out" in process.stderr.read()
            assert len(Results("out").trials) < 4
    if victim != "worker":
        assert run("sweep", "--resume=out", cwd=folder)[0] == 0
    assert content(folder / "out") == expected
    assert [path.name for path in sorted(trials.iterdir())] == ["0000", "0001", "0002", "0003"]
    assert len(stored(folder / "out")) == 4


def test_two_processes_do_not_run_one_sweep(folder, capsys):
    sweep = Sweep.create("out", Space(VARIES, FIXED), trials=1)
    before = (folder / "out" / "sweep.json").read_bytes()
    assert commands.main(["sweep", "--resume", "out"]) == 1
    assert "another process runs this sweep" in capsys.readouterr().err
    assert commands.main(["sweep", "--n-embd=2,4", "--data=text", "--out=out"]) == 2
    assert "another process runs this sweep" in capsys.readouterr().err
    assert (folder / "out" / "sweep.json").read_bytes() == before
    sweep.close()


def test_a_sweep_is_never_overwritten(folder, capsys):
    swept(folder / "out", trials=1)
    before = content(folder / "out")
    assert commands.main(["sweep", "--n-embd=2,4", "--data=text", "--out=out"]) == 2
    assert "--resume" in capsys.readouterr().err
    assert content(folder / "out") == before


def test_a_storage_of_another_sweep_is_refused_and_kept(folder, capsys):
    for name in ("a", "b"):
        swept(folder / name, trials=2, storage=None)
    shutil.copy("a/sweep.db", "b/sweep.db")
    assert commands.main(["sweep", "--resume=b", "--trials=3"]) == 1
    assert "it holds another sweep" in capsys.readouterr().err
    assert (folder / "a/sweep.db").read_bytes() == (folder / "b/sweep.db").read_bytes()
    (folder / "b/sweep.db").unlink()
    assert commands.main(["sweep", "--resume=b", "--trials=3", "--jobs=1"]) == 0
    assert len(stored(folder / "b")) == 3


def test_rows_are_those_that_optuna_would_write(folder):
    varies = {
        "learning_rate": (1e300, 0.5, *(0.1 / 3**i for i in range(6))),
        "schedule": ("linear", "cosine"),
    }
    rules = {"varies": varies, "sampler": "tpe", "pruner": "median", "trials": 16}
    for name, storage in (("a", None), ("b", "sqlite:///b.db")):
        swept(folder / name, fixed={"num_steps": 10}, storage=storage, **rules)
    rows = []
    for path in ("a/sweep.db", "b.db"):
        with contextlib.closing(sqlite3.connect(path)) as database:
            names = [name for (name,) in database.execute("select name from sqlite_master")]
            trials = [name for name in names if name.startswith("trial")]
            assert len(trials) == 7
            rows.append(
                {name: database.execute(f"select * from {name}").fetchall() for name in trials}
            )
    for found in rows:
        assert {state for _, _, _, state, *_ in found["trials"]} == {"COMPLETE", "PRUNED", "FAIL"}
        found["trials"] = [row[:4] for row in found["trials"]]
        attributes = "trial_user_attributes"
        found[attributes] = [row[: 3 + (row[2] != "seconds")] for row in found[attributes]]
    assert rows[0] == rows[1]


def test_sweeps_share_a_storage_by_its_address(folder):
    for name in ("a", "b"):
        swept(folder / name, trials=2, storage="sqlite:///shared.db")
    swept(folder / "journal", trials=2)
    assert (folder / "journal.journal").read_text().count("learning_rate") >= 2
    with contextlib.closing(sqlite3.connect("shared.db")) as database:
        assert database.execute("select count(*) from studies").fetchone() == (2,)
    sweep = Sweep("a")
    sweep.extend(3)
    assert sweep.run(Here(1))
    assert sweep.storage.count == 3
    sweep.close()


def test_show_prints_the_best_and_a_row_a_trial(folder, capsys):
    results = swept(folder / "out", trials=12, fixed={"num_steps": 4})
    assert commands.main(["sweep", "show", "out"]) == 0
    shown = capsys.readouterr().out
    best = results.best()[0]
    assert f"{best.number:04d}" in shown.splitlines()[3]
    assert "learning_rate" in shown
    assert commands.main(["sweep", "show", "out", "--csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    head = "trial,state,learning_rate,n_embd,val_loss,train_loss,seconds,directory"
    assert lines[0] == head
    assert len(lines) == 13
    frame = results.frame()
    assert frame["val_loss"].min() == best.val_loss
    assert sum(results.importance().values()) == pytest.approx(1)


def test_the_page_of_a_sweep_has_optunas_plots(folder, capsys):
    results = swept(folder / "out", trials=12, fixed={"num_steps": 4})
    assert commands.main(["report", "out"]) == 0
    page = (folder / "out" / "report.html").read_text(encoding="utf-8")
    for title in ("Best trials", "Parallel coordinates", "Contours", "Importance"):
        assert f"<h2>{title}</h2>" in page
    figures = json.loads(re.search("const FIGURES = (.*);\n", page)[1])
    assert all(figure["data"] for figure in figures.values())
    assert f"{results.best()[0].val_loss:.4f}" in page
    swept(folder / "one", trials=1, varies={"n_embd": (2, 4)})
    assert commands.main(["report", "one"]) == 0


def test_a_full_disk_ends_the_sweep_and_loses_nothing(folder):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    sweep = Sweep.create("out", Space(VARIES, FIXED), trials=3, sampler="random")
    taken = []

    class Full(Here):
        def submit(self, task):
            super().submit(task)
            if len(taken) == 1:
                # The third trial finds its directory gone, as it would find a disk without room.
                os.rename("out/trials", "out/elsewhere")
            taken.append(task.number)

    with pytest.raises(OSError, match="trials"):
        sweep.run(Full(1))
    sweep.close()
    os.rename("out/elsewhere", "out/trials")
    sweep = Sweep("out")
    assert len(sweep.results.trials) == 1
    assert sweep.run(Here(1))
    sweep.close()


def test_processes_run_trials(folder):
    workers = Processes(2)
    try:
        results = swept(folder / "out", workers, trials=4, fixed={"num_steps": 2})
    finally:
        workers.close()
    swept(folder / "here", trials=4, fixed={"num_steps": 2})
    assert content(folder / "out") == content(folder / "here")
    assert len(results.trials) == 4


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("sweep.json", "{", "no sweep"),
        ("sweep.json", "[]", "no sweep"),
        ("sweep.json", "{}", "no sweep: it has no 'id'"),
        ("sweep.json", '{"id": "x", "trials": "many"}', "no sweep: its trials is 'many'"),
    ],
)
def test_a_definition_that_is_none_is_one_line(folder, capsys, name, edit, message):
    swept(folder / "out", trials=1)
    (folder / "out" / name).write_text(edit)
    for words in (["sweep", "--resume", "out"], ["sweep", "show", "out"], ["report", "out"]):
        assert commands.main(words) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    "edit",
    [
        {"val_loss": "low"},
        {"val_loss": None},
        {"state": "done"},
        {"number": 5},
        {"params": {"n_embd": 3}},
        {"params": []},
        {"seconds": None},
        {"sweep": "another"},
        {"more": 1},
    ],
)
def test_a_result_that_is_none_of_the_sweep_is_trained_again(folder, edit):
    swept(folder / "out", trials=1)
    expected = content(folder / "out")
    path = folder / "out" / "trials" / "0000" / "trial.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **edit}))
    assert Results("out").trials == {}
    sweep = Sweep("out")
    assert sweep.run(Here(1))
    sweep.close()
    assert content(folder / "out") == expected
    assert len(os.listdir("out/trials")) == 2  # what was there was moved, not lost


def test_the_page_of_a_sweep_without_a_trial_says_so(folder):
    sweep = Sweep.create("out", Space(dict(VARIES), FIXED), trials=1)
    sweep.close()
    assert commands.main(["report", "out"]) == 0
    assert "none has ended" in (folder / "out" / "report.html").read_text(encoding="utf-8")
    assert commands.main(["sweep", "show", "out"]) == 0

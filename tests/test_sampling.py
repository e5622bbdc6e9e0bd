"""Uses of a saved run: samples, evaluation, scores, its log, and the model in Python."""

import csv
import io
import json
import math
import random

import pytest
from bits import bits
from command import run

from microgpt import checkpoint, data, sampling
from microgpt.settings import Settings
from microgpt.training import Training

BOOK = "to be, or not to be:\nthat is the question:\nwhether 'tis nobler in the mind\n" * 3
NAMES = "\n".join(
    a + b for a in ("an", "be", "cor", "dan", "el", "fa") for b in ("a", "e", "ie", "ina")
)
SMALL = {"n_embd": 4, "n_head": 2, "block_size": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with a run on names and one on the windows of a text."""
    folder = tmp_path_factory.mktemp("samples")
    (folder / "names.txt").write_text(NAMES)
    (folder / "book.txt").write_text(BOOK)
    runs = {
        "names": {"data": str(folder / "names.txt"), "num_steps": 300, "val": 0.2},
        "book": {"data": str(folder / "book.txt"), "num_steps": 60, "split": "windows"},
    }
    for name, settings in runs.items():
        Training(Settings(**SMALL, **settings, out=str(folder / name))).fit()
    return folder


def drawn(folder, name, **settings):
    """Return samples of a run as the library draws them."""
    content = checkpoint.read(folder / name)
    split = content.run["settings"]["split"]
    model = checkpoint.model_of(content, "python")
    chosen = Settings(split=split, **{"num_samples": 6, **settings})
    return list(sampling.samples(model, content.tokenizer, random.Random(42), chosen))


@pytest.mark.parametrize(
    "settings",
    [
        {"length": 30, "temperature": 2.0},
        {"temperature": 0.0, "length": 20},
        {"top_p": 0.5, "temperature": 2.0, "length": 12},
        {"prompt": "an", "stop": "na"},
        {"top_k": 2, "top_p": 0.9, "length": 25, "prompt": "cor"},
    ],
    ids=lambda settings: " ".join(settings),
)
@pytest.mark.parametrize("name", ["names", "book"])
def test_samples_of_the_command_are_the_librarys_on_every_engine(folder, engine, name, settings):
    if name == "book":
        settings = {**settings, "prompt": settings.get("prompt", "")[:0], "stop": ""}
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items() if value != ""]
    command = ["sample", name, "--engine", engine.NAME, "--num-samples", 6, *flags]
    status, out, err = run(*command, cwd=folder)
    assert (status, err) == (0, "")
    expected = drawn(folder, name, **settings)
    shows_cut = name == "book" or "length" in settings
    lines = [
        f"sample {i + 1:2d}: {text}{' ...' if shows_cut and ended_by == 'length' else ''}\n"
        for i, (text, ended_by) in enumerate(expected)
    ]
    assert out == "".join(lines)
    assert {ended_by for _, ended_by in expected} <= {"end", "stop", "length"}


def test_length_goes_beyond_the_block(folder):
    texts = drawn(folder, "book", length=50, temperature=0.0, num_samples=2)
    assert [(len(text), ended_by) for text, ended_by in texts] == [(50, "length")] * 2
    assert all(len(text) <= 8 for text, _ in drawn(folder, "names"))
    assert any(len(text) > 8 for text, _ in drawn(folder, "names", length=40, temperature=3.0))


def test_temperature_zero_draws_nothing_and_stop_ends_a_sample(folder):
    assert len({text for text, _ in drawn(folder, "names", temperature=0.0)}) == 1
    stopped = [s for s in drawn(folder, "names", stop="a", num_samples=30) if s.ended_by == "stop"]
    assert stopped
    assert all(text.endswith("a") and text.count("a") == 1 for text, _ in stopped)


def test_windows_begin_with_a_newline_that_is_not_shown(folder):
    content = checkpoint.read(folder / "book")
    model = checkpoint.model_of(content, "python")
    newline = content.tokenizer.encode("\n")
    rng = random.Random(42)
    for text, _ in drawn(folder, "book", num_samples=3):
        tokens = model.generate(newline, length=9, bos=False, rng=rng)
        assert "\n" + text == content.tokenizer.decode(tokens)


def test_prompt_comes_from_a_file(folder):
    (folder / "start").write_text("to b\n")
    command = ["sample", "book", "--num-samples", "2", "--length", "20"]
    assert run(*command, "--prompt-file", "start", cwd=folder) == run(
        *command, "--prompt", "to b", cwd=folder
    )
    status, _, err = run(*command, "--prompt-file=start", "--prompt=a", cwd=folder)
    assert (status, err.count("\n")) == (2, 1)
    assert run(*command, "--prompt-file", "missing", cwd=folder)[0] == 1


def test_mark_says_where_a_sample_is_known_from(folder):
    corpus = Training.load(folder / "names").corpus
    out = run("sample", "names", "--mark", "--num-samples", 200, "--quiet", cwd=folder)[1]
    seen = set()
    for line in out.splitlines():
        text, mark = line.split("\t")
        known = {True: "in the training text", False: "held out"}.get(
            True if text in corpus.training else False if text in corpus.held_out else None, "new"
        )
        assert mark == known
        seen.add(mark)
    assert seen == {"in the training text", "held out", "new"}
    out = run("sample", "book", "--mark", "--num-samples", 2, "--length=1", cwd=folder)[1]
    assert out.count("(in the training text)") == 2


def test_eval_gives_the_librarys_loss_of_the_held_out_documents(folder, engine):
    training = Training.load(folder / "names", {"engine": engine.NAME})
    status, out, err = run("eval", "names", "--engine", engine.NAME, cwd=folder)
    assert (status, err) == (0, "")
    found = dict(line.split(": ", 1) for line in out.splitlines())
    loss = training.best[1]
    best = checkpoint.model_of(checkpoint.read(folder / "names"), engine.NAME)
    result = best.evaluate(training.held_out)
    assert bits(result.loss) == bits(loss)
    assert found["nats a token"].strip() == f"{loss:.4f}"
    assert found["bits a character"].strip() == f"{loss / math.log(2):.4f}"
    assert found["perplexity"].strip() == f"{math.exp(loss):.4f}"
    assert found["tokens"].strip() == f"{result.tokens}"


def test_eval_takes_another_text_and_an_old_model(folder):
    (folder / "other").write_text("ana\nbee\n")
    content = checkpoint.read(folder / "names")
    model = checkpoint.model_of(content)
    checkpoint.save(folder / "old.safetensors", model, content.tokenizer)
    outs = []
    for name in ("names", "old.safetensors"):
        status, out, _ = run("eval", name, "--data", "other", "--threads", 2, cwd=folder)
        assert status == 0
        outs.append(out.splitlines()[:-1])
    assert outs[0] == outs[1]
    assert outs[0][1].split() == ["tokens:", "8"]
    status, _, err = run("eval", "old.safetensors", cwd=folder)
    assert (status, err.count("\n")) == (1, 1)
    assert "a model without a run, so its text is not known" in err
    (folder / "other").write_text("ñ\n")
    assert "character 'ñ' is not in" in run("eval", "names", "--data", "other", cwd=folder)[2]


def test_scores_sum_up_to_the_loss_of_the_text(folder):
    content = checkpoint.read(folder / "names")
    model = checkpoint.model_of(content)
    out = run("score", "names", "ana", "corina", cwd=folder)[1]
    for line, text in zip(out.splitlines(), ("ana", "corina"), strict=True):
        nats, bit, perplexity, tokens, shown = line.split("\t")
        expected = model.evaluate([content.tokenizer.encode_document(text)])
        assert shown == text
        assert tokens == f"{len(text) + 1} tokens"
        assert nats == f"{expected.nats:.4f} nats"
        assert bit == f"{expected.nats / math.log(2):.4f} bits"
        assert perplexity == f"perplexity {math.exp(expected.loss):.4f}"
    assert run("score", "names", cwd=folder, input="ana\ncorina\n")[1] == out


def test_score_shows_each_character_also_beyond_the_block(folder):
    text = "corinadanina"
    out = run("score", "names", text, "--characters", cwd=folder)[1].splitlines()
    rows = [line.split("\t") for line in out[:-1]]
    assert [row[0] for row in rows] == [*map(repr, text), "the end"]
    content = checkpoint.read(folder / "names")
    model = checkpoint.model_of(content, "python")
    tokens = content.tokenizer.encode_document(text)
    window = tokens[-9:]  # the last character is predicted from the eight before it
    losses = model._losses(model.state_dict, window, model._begin(model.state_dict))
    assert rows[-1][1] == f"{math.exp(-losses[-1].data):.6f}"
    assert float(out[-1].split()[2]) == pytest.approx(
        sum(float(r[2].split()[0]) for r in rows), 1e-3
    )


def test_score_and_look_read_a_text_of_windows_as_samples_begin(folder):
    """A score is what a sample of that text costs, the newline before it not counted."""
    content = checkpoint.read(folder / "book")
    model = checkpoint.model_of(content)
    nats = model.evaluate([content.tokenizer.encode("\nto be")]).nats
    line = run("score", "book", "to be", cwd=folder)[1]
    assert line.split("\t")[0] == f"{nats:.4f} nats"
    assert "5 tokens" in line
    seen = json.loads(run("look", "book", "to be", "--json", cwd=folder)[1])
    assert sum(seen["bits"]) * math.log(2) == pytest.approx(nats)
    assert run("score", "book", "", cwd=folder)[::2] == (
        1,
        "microgpt: an empty text has no tokens to score\n",
    )


def test_text_of_less_than_a_window_is_evaluated(folder):
    (folder / "short").write_text("to")
    out = run("eval", "book", "--data", "short", cwd=folder)[1]
    assert "tokens:           1\n" in out


def test_log_is_a_table_of_all_steps(folder):
    out = run("log", "names", "--csv", cwd=folder)[1]
    rows = list(csv.DictReader(io.StringIO(out)))
    lines = [json.loads(line) for line in (folder / "names" / "log.jsonl").read_text().splitlines()]
    assert len(rows) == len(lines) == 300
    for row, line in zip(rows, lines, strict=True):
        assert {k: "" if v is None else str(v) for k, v in line.items()} == row
    held = [line["val_loss"] for line in lines if line["val_loss"] is not None]
    assert len(held) == 10
    assert all(line["norm"] > 0 for line in lines)
    tail = run("log", "names", "--lines", 3, cwd=folder)[1]
    assert [json.loads(line) for line in tail.splitlines()] == lines[-3:]
    status, _, err = run("log", "old", cwd=folder)
    assert (status, err.count("\n")) == (1, 1)


def test_model_is_saved_and_loaded_from_python_on_every_engine(folder, engine, tmp_path):
    model = engine.GPT.load(folder / "names")
    assert isinstance(model, engine.GPT)
    assert model.tokenizer.chars == checkpoint.read(folder / "names").tokenizer.chars
    path = model.save(tmp_path / "copy")
    copy = engine.GPT.load(path)
    assert bits(*copy.weights()) == bits(*model.weights())
    assert run("sample", path, cwd=folder) == run("sample", "names", cwd=folder)
    with pytest.raises(ValueError, match="has no tokenizer to save with it"):
        engine.GPT(5).save(tmp_path / "none")


def test_documents_longer_than_the_block_are_told_of(folder):
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in SMALL.items()]
    train = ["train", "--data", "book.txt", *flags, "--num-steps", 1, "--num-samples", 0]
    _, _, err = run(*train, cwd=folder)
    lines = data.documents(str(folder / "book.txt"))
    share = sum(min(8, len(line)) for line in lines) / sum(map(len, lines))
    assert err == (
        f"microgpt: 9 of 9 documents are longer than --block-size 8, so {share:.0%} of the text "
        "is used: raise it, or give --split windows\n"
    )
    assert run(*train, "--split", "windows", cwd=folder)[2] == ""
    assert run("train", "--num-steps=1", "--num-samples=0", cwd=folder)[2] == ""


KNOBS = {
    "schedule": ["--schedule=cosine", "--warmup=3", "--min-lr=0.001"],
    "constant": ["--schedule=constant", "--warmup=2"],
    "decay and clip": ["--weight-decay=0.5", "--clip=0.5"],
    "dropout": ["--dropout=0.3", "--batch-size=2"],
    "init": ["--init-std=0.02"],
}


@pytest.mark.parametrize("name", KNOBS)
def test_each_knob_is_verified_resumed_and_equal_on_all_engines(folder, compiled, tmp_path, name):
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in SMALL.items()]
    flags = ["--data", folder / "names.txt", *flags, *KNOBS[name], "--num-steps", 8]
    status, out, err = run("verify", "--engine", compiled.NAME, *flags, cwd=tmp_path)
    assert (status, out.count("identical"), err) == (0, 1, "")
    train = ["train", *flags, "--quiet", "--num-samples", 0, "--out"]
    assert run(*train, "whole", "--engine", "python", cwd=tmp_path)[0] == 0
    assert run(*train, "none", cwd=tmp_path)[0] == 0
    whole = (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert (tmp_path / "none" / "model.safetensors").read_bytes() == whole
    default = [f"--{flag.split('=')[0][2:]}" for flag in KNOBS[name]]
    assert default
    status, out, _ = run("verify", "whole", "--engine", compiled.NAME, cwd=tmp_path)
    assert (status, out.split(":")[0]) == (0, "identical")


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--warmup", "10", "--num-steps", "10"], "warmup must be in 0..9, below num_steps"),
        (["--min-lr", "1"], "min_lr (1.0) is above learning_rate (0.01)"),
        (["--schedule", "cosin"], "not 'cosin'; did you mean cosine?"),
        (["--dropout", "1"], "--dropout: must be at least 0 and below 1, not 1.0"),
        (["--top-p", "1.5"], "--top-p: must be above 0 and at most 1, not 1.5"),
        (["--clip", "0"], "--clip: must be a positive number, not 0.0"),
        (["--val", "1"], "--val: must be above 0 and below 1, not 1.0"),
        (["--patience", "3"], "patience needs a held-out set: give val"),
        (["--eval-every", "3"], "eval_every needs a held-out set: give val"),
        (["--keep", "best"], "keep best needs a held-out set: give val"),
        (["--keep", "all"], "must be one of best, last, not 'all'"),
    ],
)
def test_settings_that_do_not_go_together_are_named(folder, flags, complaint):
    status, out, err = run("train", *flags, "--out", "new", cwd=folder)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert complaint in err
    assert not (folder / "new").exists()


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--data=one", "--val=0.99"], "val 0.99 of 1 documents leaves none to train on"),
        (["--data=book.txt", "--split=windows", "--block-size=500"], "is less than one window of"),
        (["--prompt=ad0"], "prompt: character '0' is not in the vocabulary"),
        (["--stop=0"], "stop: character '0' is not in the vocabulary"),
        (["--prompt=adaadaadaadaadaa"], "a prompt of 16 characters leaves no room for more"),
        (["--prompt=ad", "--length=2"], "a prompt of 2 characters leaves no room for more"),
    ],
)
def test_settings_that_do_not_fit_the_text_are_named(folder, flags, complaint):
    (folder / "one").write_text("ada\n")
    status, out, err = run("train", *flags, "--out", "none", cwd=folder)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert complaint in err
    assert not list((folder / "none").iterdir())


def test_event_files_have_the_losses(folder, tmp_path):
    import tensorboardX

    flags = [f"--{key.replace('_', '-')}={value}" for key, value in SMALL.items()]
    train = ["train", "--data", folder / "names.txt", *flags, "--num-steps=20", "--val=0.2"]
    status, _, err = run(*train, "--out", "run", "--tensorboard", cwd=tmp_path)
    assert (status, err) == (0, "")
    (path,) = (tmp_path / "run").glob("events.out.tfevents.*")
    found = {}
    content = path.read_bytes()
    while content:  # length, checksum, event, checksum
        size = int.from_bytes(content[:8], "little")
        event = tensorboardX.proto.event_pb2.Event.FromString(content[12 : 12 + size])
        for value in event.summary.value:
            found[value.tag.replace("_", "-"), event.step] = value.simple_value
        content = content[16 + size :]
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    logged = {line["step"]: line for line in map(json.loads, lines)}
    assert found["loss", 20] == pytest.approx(logged[20]["loss"], 1e-6)
    assert found["rate", 5] == pytest.approx(logged[5]["rate"], 1e-6)
    assert found["held-out-loss", 20] == pytest.approx(logged[20]["val_loss"], 1e-6)
    status, _, err = run(*train, "--tensorboard", cwd=tmp_path)
    assert (status, "tensorboard needs a directory" in err) == (2, True)

"""makemore's models by the command line: trained, sampled, verified and resumed like the GPT."""

import json

import pytest
from command import run

from microgpt import checkpoint
from microgpt.models import MODELS


def microgpt(cwd, *arguments, status=0):
    """Run a command; return its output, or what it complains about."""
    found, stdout, stderr = run(*arguments, cwd=cwd)
    assert found == status, stderr
    return stderr if status else stdout


SMALL = ["--block-size", "5", "--num-samples", "2"]
LADDER = [name for name in MODELS if name != "gpt"]


@pytest.mark.parametrize("name", LADDER)
def test_a_model_is_trained_sampled_verified_and_resumed(tmp_path, name):
    sizes = [] if name == "bigram" else ["--n-embd", "3", "--n-hidden", "4"]
    shown = {}
    for engine in ("python", "fused"):
        flags, out = [*sizes, *SMALL, "--engine", engine], tmp_path / engine
        steps = ["--model", name, "--num-steps", "6", "--val", "0.001"]
        trained = microgpt(tmp_path, "train", *steps, *flags, "--out", out)
        assert "num params: " in trained
        sampled = microgpt(tmp_path, "sample", out, "--num-samples", "2", "--keep", "last")
        assert "identical: 6 losses" in microgpt(tmp_path, "verify", out)
        microgpt(tmp_path, "train", "--resume", out, "--num-steps", "9", "--engine", "fused")
        content = checkpoint.read(out, best=False)
        assert content.model == name
        shown[engine] = (sampled, content.weights.tobytes(), (out / "log.jsonl").exists())
    assert shown["python"] == shown["fused"]


def test_all_engines_are_compared_on_a_model(tmp_path):
    done = microgpt(
        tmp_path,
        "verify",
        "--model",
        "gru",
        "--n-embd",
        "2",
        "--n-hidden",
        "3",
        "--num-steps",
        "2",
        *SMALL,
    )
    assert done.count("identical") >= 2


def test_a_size_that_a_model_lacks_is_named(tmp_path):
    done = microgpt(tmp_path, "train", "--model", "rnn", "--n-layer", "2", status=2)
    assert "model rnn has no n_layer" in done
    done = microgpt(tmp_path, "train", "--n-hidden", "2", status=2)
    assert "model gpt has no n_hidden" in done
    done = microgpt(tmp_path, "train", "--model", "lstm", status=2)
    assert "must be one of bigram, mlp, rnn, gru, bow, gpt, not 'lstm'" in done


@pytest.mark.parametrize("name", LADDER)
def test_a_model_is_looked_at_reported_and_measured(tmp_path, name):
    sizes = [] if name == "bigram" else ["--n-embd", "3", "--n-hidden", "4"]
    steps = ["--model", name, "--num-steps", "2", "--val", "0.001"]
    microgpt(tmp_path, "train", *steps, *sizes, *SMALL, "--out", "run")
    shown = microgpt(tmp_path, "look", "run", "emma")
    assert "5 tokens, the end counted" in shown
    assert "layer" not in shown
    figures = json.loads(microgpt(tmp_path, "look", "run", "emma", "--json"))
    assert len(figures["probability"]) == 5
    assert figures["attention"] == []
    assert "nats a token" in microgpt(tmp_path, "eval", "run")
    microgpt(tmp_path, "report", "run", "--verify")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert f"A {MODELS[name].__name__} of " in page
    assert "identical: 2 losses" in page
    assert 'id="curves"' in page
    assert 'id="embeddings"' in page
    assert 'id="attention"' not in page
    done = microgpt(tmp_path, "look", "run", "emma", "--head", "0", status=1)
    assert f"a model of the kind {name} has no attention to show" in done
    done = microgpt(tmp_path, "look", "run", "emma", "--ablate", "0.0", status=1)
    assert f"a model of the kind {name} has no heads or activations to set" in done
    done = microgpt(tmp_path, "export", "run", "--to", "json", status=1)
    assert f"holds a model of the kind {name}; expected is a gpt" in done


def test_a_file_of_an_unknown_model_is_refused(tmp_path):
    out = tmp_path / "run"
    microgpt(tmp_path, "train", "--model", "bigram", "--num-steps", "1", *SMALL, "--out", out)
    file = checkpoint.file_in(out)
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"]["model"] = "lstm"
    changed = json.dumps(header).encode()
    file.write_bytes(len(changed).to_bytes(8, "little") + changed + content[8 + length :])
    with pytest.raises(ValueError, match="its model is none of bigram, mlp, rnn, gru, bow, gpt"):
        checkpoint.load(out)

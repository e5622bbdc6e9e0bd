"""Checkpoints: saved and loaded exactly, written atomically, and checked when read."""

import io
import itertools
import json
import math
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from bits import bits
from command import environment
from golden.original import libm_fingerprint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from microgpt import checkpoint, memory, sampling
from microgpt.engine import names
from microgpt.settings import Settings
from microgpt.tokenizer import CharTokenizer
from microgpt.training import Training


def made(engine, chars="ab", **sizes):
    """Return a small model and its tokenizer."""
    tokenizer = CharTokenizer(chars)
    sizes = {"n_embd": 2, "n_head": 1, "n_layer": 1, "block_size": 2, **sizes}
    return engine.GPT(tokenizer.vocab_size, **sizes, rng=random.Random(1)), tokenizer


@pytest.fixture
def path(oracle, tmp_path):
    """A small checkpoint."""
    return checkpoint.save(tmp_path, *made(oracle))


def rewrite(path, change, data=None):
    """Change the header of a checkpoint as `change(header)` does; return what was its data."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    change(header)
    encoded = json.dumps(header).encode()
    body = content[end:] if data is None else data
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + body)
    return content[end:]


def test_weights_come_back_to_the_last_bit_on_every_engine(engine, oracle, tmp_path):
    extremes = [-0.0, 5e-324, -2.2250738585072014e-308, sys.float_info.max, 0.1, math.pi]
    model, tokenizer = made(
        engine, 'héé日👩\u0301"\\\x01', n_embd=6, n_head=3, n_layer=2, block_size=5
    )
    weights = model.weights()
    weights[: len(extremes)] = type(weights)("d", extremes)
    model.set_weights(weights)
    saved = checkpoint.save(tmp_path, model, tokenizer)
    for name in (engine.NAME, oracle.NAME, None):
        loaded, characters = checkpoint.load(tmp_path, name)
        assert bits(*loaded.weights()) == bits(*weights)
        assert loaded.config == model.config
        assert characters.chars == tokenizer.chars
    assert saved == tmp_path / "model.safetensors"


FIRST = Path(__file__).with_name("golden") / "first_version.safetensors"
# Made at commit 08efef8, with these names a line each:
#   MICROGPT_ENGINE=python microgpt train --data names --n-embd 4 --n-head 2 --num-steps 5 --out old
FIRST_NAMES = "ada grace alan edsger barbara donald tony john björn".split()
FIRST_SAMPLES = ["oaedrrtbladnadrn", "dotatrgc", "gbcyotrn", "gnöoyoraegbebgrh", "gdeörodrdh"]


def test_checkpoint_of_the_first_version_is_read_and_sampled_as_by_it(engine):
    model, tokenizer = checkpoint.load(FIRST, engine.NAME)
    assert tokenizer.chars == sorted(set("".join(FIRST_NAMES)))
    drawn = sampling.samples(model, tokenizer, random.Random(42), Settings(num_samples=5))
    assert [text for text, _ in drawn] == FIRST_SAMPLES
    with pytest.raises(ValueError, match="holds a model without a run, which cannot be resumed"):
        Training.load(FIRST)


def test_run_of_today_comes_to_the_weights_of_the_first_version(tmp_path):
    (tmp_path / "names").write_text("\n".join(FIRST_NAMES), "utf-8")
    run = Training(Settings(data=str(tmp_path / "names"), n_embd=4, n_head=2, num_steps=5))
    run.fit()
    saved = checkpoint.read(FIRST).weights
    if libm_fingerprint() == (FIRST.parent / "libm.txt").read_text().split("\n")[1]:
        assert bits(*run.model.weights()) == bits(*saved)
    else:
        assert list(run.model.weights()) == pytest.approx(list(saved))


def test_load_takes_the_file_as_well_as_its_directory(oracle, tmp_path):
    model, tokenizer = made(oracle)
    saved = checkpoint.save(tmp_path / "mine", model, tokenizer)
    assert saved == tmp_path / "mine"
    assert bits(*checkpoint.load(saved)[0].weights()) == bits(*model.weights())


def test_safetensors_itself_reads_the_file(oracle, path):
    model, _ = made(oracle)
    found = dict(safetensors.deserialize(path.read_bytes()))
    assert {name: tuple(entry["shape"]) for name, entry in found.items()} == model.config.shapes()
    assert {entry["dtype"] for entry in found.values()} == {"F64"}
    arrays = safetensors.numpy.load_file(path)
    for name, matrix in model.state_dict.items():
        assert bits(*arrays[name].ravel()) == bits(*[p.data for row in matrix for p in row])


def test_weights_begin_at_a_multiple_of_eight_bytes(path):
    """Readers that map the file need them so, and the header ends anywhere."""
    content = path.read_bytes()
    assert int.from_bytes(content[:8], "little") % 8 == 0


def test_file_that_safetensors_wrote_in_another_order_is_read(oracle, path):
    model, _ = made(oracle)
    arrays = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, "np") as opened:
        metadata = opened.metadata()
    reordered = {name: arrays[name] for name in reversed(list(arrays))}
    safetensors.numpy.save_file(reordered, path, metadata)
    assert bits(*checkpoint.load(path)[0].weights()) == bits(*model.weights())


def test_file_cut_short_at_any_byte_is_refused(path):
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="no microgpt model"):
            checkpoint.load(path)


def test_file_with_a_byte_too_many_is_refused(path):
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="its configuration asks for"):
        checkpoint.load(path)


def test_flipped_bit_is_refused_or_gives_a_whole_model(path):
    content = bytearray(path.read_bytes())
    for i, bit in itertools.product(range(len(content)), (0, 3, 7)):
        content[i] ^= 1 << bit
        path.write_bytes(content)
        try:
            model, tokenizer = checkpoint.load(path)
        except ValueError as error:
            complaint = str(error)
        else:
            complaint = "no microgpt model"
            assert all(map(math.isfinite, model.weights()))
            assert tokenizer.vocab_size == model.config.vocab_size
        assert complaint.count("no microgpt model") == 1 > complaint.count("\n")
        content[i] ^= 1 << bit


def judge(content, path):
    """Load what may be a checkpoint: a whole model, or a complaint of one line that names it."""
    path.write_bytes(content)
    try:
        model, tokenizer = checkpoint.load(path, "python")
    except ValueError as error:
        assert str(error).startswith(f"{path}: no microgpt model: ")
        assert "\n" not in str(error)
        return None
    assert all(map(math.isfinite, model.weights()))
    assert len(model.params) == model.config.num_params
    assert tokenizer.vocab_size == model.config.vocab_size
    return model


@given(st.binary(max_size=200), st.none() | st.integers(-20, 20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_no_model(path, text, length):
    if length is not None:  # the header's, nearly right
        text = max(0, len(text) + length).to_bytes(8, "little") + text
    assert judge(text, path) is None


METADATA = {"format": "microgpt", "vocabulary": "ab"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
)


def places(node):
    """Return (container, key) of all values in a JSON object."""
    keys = list(node) if isinstance(node, dict) else range(len(node))
    inner = [
        place for key in keys if isinstance(node[key], (dict, list)) for place in places(node[key])
    ]
    return [(node, key) for key in keys] + inner


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_header_with_any_value_anywhere_is_refused_or_gives_a_whole_model(path, data):
    before = path.read_bytes()

    def change(header):
        sizes = json.loads(header["__metadata__"]["config"])
        for _ in range(data.draw(st.integers(1, 3))):
            container, key = data.draw(st.sampled_from(places(header) + places(sizes)))
            value = container.pop(key)
            if isinstance(container, list):
                container.insert(data.draw(st.integers(0, 2)), data.draw(JSON))
            elif data.draw(st.booleans()):
                container[key] = data.draw(JSON)
            else:
                container[data.draw(st.text(max_size=3))] = value
        if data.draw(st.booleans()) and "__metadata__" in header:
            header["__metadata__"] = {"config": json.dumps(sizes), **METADATA}

    rewrite(path, change)
    judge(path.read_bytes(), path)
    path.write_bytes(before)


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_file_with_bytes_changed_anywhere_is_refused_or_gives_a_whole_model(path, data):
    before = content = path.read_bytes()
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        stop = data.draw(st.integers(start, min(start + 16, len(content))))
        content = content[:start] + data.draw(st.binary(max_size=16)) + content[stop:]
    judge(content, path)
    path.write_bytes(before)


def test_file_that_shrinks_while_it_is_read_is_refused(path, monkeypatch):
    content = path.read_bytes()
    for size in range(len(content)):
        shrunk = io.BytesIO(content[:size])
        monkeypatch.setattr(checkpoint, "open", lambda *_, file=shrunk: file, raising=False)
        with pytest.raises(ValueError, match="no microgpt model"):
            checkpoint.load(path)


def test_model_that_cannot_fit_is_refused_before_its_weights_are_read(path, monkeypatch):
    model, _ = checkpoint.load(path)
    monkeypatch.setattr(memory, "WEIGHT", dict.fromkeys(names(), 1 << 60))
    with pytest.raises(MemoryError, match=f"^{model.config.num_params} weights and 0 .* GiB on "):
        checkpoint.load(path)


def metadata(**changes):
    def change(header):
        header["__metadata__"].update(changes)

    return change


def entry(name, **changes):
    def change(header):
        header[name].update(changes)

    return change


def config(**changes):
    def change(header):
        sizes = json.loads(header["__metadata__"]["config"])
        header["__metadata__"]["config"] = json.dumps({**sizes, **changes})

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda header: header.pop("__metadata__"), "does not say that its format is microgpt"),
        (metadata(format="pt"), "does not say that its format is microgpt"),
        (metadata(config=7), "its header has no config"),
        (metadata(config="[]"), "its config is not a JSON object"),
        (metadata(config="{"), "no microgpt model: "),
        (metadata(config="[" * 100_000), "nested too deep"),
        (config(depth=1), r"its config names .*, not 'vocab_size', 'n_embd', 'n_head', ..."),
        (config(n_embd=True), "n_embd must be an integer, not True"),
        (config(n_embd=2.0), "n_embd must be an integer, not 2.0"),
        (config(n_embd=0), "n_embd must be at least 1"),
        (config(n_head=4), "must be a multiple of n_head"),
        (config(n_layer=10**15), "its configuration asks for"),
        (config(vocab_size=4), "its vocabulary has 3 tokens, vocab_size is 4"),
        (metadata(vocabulary=None), "its header has no vocabulary"),
        (metadata(vocabulary="ba"), "its vocabulary is not sorted and unique"),
        (metadata(vocabulary="aa"), "its vocabulary is not sorted and unique"),
        (metadata(vocabulary="a\ud800"), "surrogates not allowed"),
        (lambda header: header.pop("wte"), "its tensors are 'wpe', 'lm_head', .*, not 'wte'"),
        (lambda header: header.update(more=header["wte"]), "its tensors are"),
        (lambda header: header.update(wte=3), "wte is not of dtype F64"),
        (entry("wte", dtype="F32"), "wte is not of dtype F64"),
        (entry("wte", shape=[2, 3]), r"wte is not of shape \[3, 2\]"),
        (entry("wte", shape="3"), r"wte is not of shape \[3, 2\]"),
        (entry("wte", shape=[3.0, 2]), r"wte is not of shape \[3, 2\]"),
        (entry("wte", data_offsets=[0, 40]), "wte has data_offsets that do not fit"),
        (entry("wte", data_offsets=[-8, 40]), "wte has data_offsets that do not fit"),
        (entry("wte", data_offsets=[False, 48]), "wte has data_offsets that do not fit"),
        (entry("wte", data_offsets=[0, 48, 96]), "wte has data_offsets that do not fit"),
        (entry("wte", data_offsets=None), "wte has data_offsets that do not fit"),
        (entry("wte", data_offsets=[1, 49]), "its tensors do not lie side by side"),
        (entry("wte", data_offsets=[10**30, 10**30 + 48]), "do not lie side by side"),
        (entry("lm_head", data_offsets=[0, 48]), "its tensors do not lie side by side"),
    ],
)
def test_header_that_is_wrong_is_refused_by_what_is_wrong(path, change, complaint):
    rewrite(path, change)
    with pytest.raises(ValueError, match=complaint) as caught:
        checkpoint.load(path)
    assert str(caught.value).startswith(f"{path}: no microgpt model: ")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "0 bytes are not the whole"),
        (b"\xff" * 64, "64 bytes are not the whole"),
        (b"\2" + b"\0" * 7 + b"[]", "its header is not a JSON object"),
        (b"\2" + b"\0" * 7 + b"\xff\xff", "can't decode byte 0xff"),
        (b"\x0d" + b"\0" * 7 + b'{"a":1,"a":2}', "a key occurs twice"),
        (pickle.dumps(print), "are not the whole"),
    ],
    ids=["empty", "all ones", "a list", "no text", "a key twice", "a pickle"],
)
def test_file_of_another_kind_is_refused(path, content, complaint):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=complaint):
        checkpoint.load(path)


def test_header_of_two_gigabytes_is_refused_before_it_is_read(path):
    with open(path, "wb") as file:
        file.write((1 << 31).to_bytes(8, "little"))
        file.truncate(1 << 32)  # takes no room on the disk
    with pytest.raises(ValueError, match="header of 2,147,483,648 bytes exceeds"):
        checkpoint.load(path)


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf])
def test_weight_that_is_not_finite_is_refused_both_ways(oracle, path, weight):
    model, tokenizer = made(oracle)
    before = path.read_bytes()
    model.params[7].data = weight
    with pytest.raises(ValueError, match="not saved: wpe has a weight that is not finite"):
        checkpoint.save(path, model, tokenizer)
    assert path.read_bytes() == before
    data = rewrite(path, lambda header: None)
    rewrite(path, lambda header: None, data[:-8] + np.float64(weight).tobytes())
    with pytest.raises(ValueError, match=r"layer0\.mlp_fc2 has a weight that is not finite"):
        checkpoint.load(path)


def test_vocabulary_of_more_than_characters_is_not_saved(oracle, tmp_path):
    model, _ = made(oracle)
    with pytest.raises(ValueError, match="one character"):
        checkpoint.save(tmp_path, model, CharTokenizer(["a", "bc"]))
    assert list(tmp_path.iterdir()) == []


def test_set_weights_takes_as_many_as_there_are(engine):
    model, _ = made(engine)
    with pytest.raises(ValueError, match=f"has {len(model.params)} weights, not 1"):
        model.set_weights(model.weights()[:1])


def test_special_file_is_refused_without_reading(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match="is not a file"):
        checkpoint.load(tmp_path / "fifo")


SAVE_TOO_MUCH = """
import random, resource, signal, sys
from microgpt import checkpoint, engine
from microgpt.tokenizer import CharTokenizer
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    checkpoint.save(sys.argv[1], engine.GPT(3), CharTokenizer("ab"))
except OSError as error:
    print(error.filename)
"""


def test_disk_that_is_full_leaves_the_former_file(path, tmp_path):
    before = path.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", SAVE_TOO_MUCH, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert (done.stdout, done.stderr) == (f"{path}\n", "")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


SAVE_FOREVER = """
import random, sys
from microgpt import checkpoint, engine
from microgpt.tokenizer import CharTokenizer
for seed in range(10**9):
    model = engine.GPT(3, rng=random.Random(seed))
    checkpoint.save(sys.argv[1], model, CharTokenizer("ab"))
    print(seed, flush=True)
"""


def test_process_killed_while_it_saves_leaves_a_whole_file(tmp_path):
    moments = random.Random(5)
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", SAVE_FOREVER, str(tmp_path)],
            stdout=subprocess.PIPE,
            env=environment(),
        ) as process:
            process.stdout.readline()
            time.sleep(moments.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
        model, _ = checkpoint.load(tmp_path)
        assert model.config.vocab_size == 3

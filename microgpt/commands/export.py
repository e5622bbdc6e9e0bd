"""`microgpt export`: a saved model in another runtime's form, loaded again and compared.

Each form is written into a new directory, loaded from there by its own runtime, and run
on the same tokens as this package's model. numpy and JSON give the same bits; torch and
onnxruntime sum in other orders, so their logits may differ in the last bits: how far is
printed, and more than TOLERANCE is an error.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import runpy
import secrets
import shutil
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microgpt import checkpoint, extras, files
from microgpt.commands import flags
from microgpt.gpt import GPT

if TYPE_CHECKING:
    from microgpt.tokenizer import CharTokenizer

    Logits = Callable[[Sequence[int]], Any]

SUMMARY = "write a saved model for torch, onnx or numpy"
EXAMPLES = """\
examples:
  microgpt export names --to torch --out names-torch    model.py and model.safetensors
  microgpt export names --to onnx --out names-onnx      model.onnx, tokens to logits, in double
  microgpt export names --to numpy --out names-numpy    model.py and model.npz
  microgpt export names --to json --out names-json      model.json, every weight to the last bit

The export is loaded again, and its logits are compared with the model's.
"""
TOLERANCE = 2.0**-32  # of the largest logit: another order of sums, but double precision
TEXTS = 4  # random ones, beside one of each length up to 8
SOURCES = Path(__file__).parents[1] / "exports"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    command.add_argument("model", metavar="DIR", help="the directory that train --out made")
    command.add_argument("--to", choices=sorted(FORMS), required=True, help="the form")
    command.add_argument(
        "--out", type=Path, metavar="DIR", help="a new directory (default: DIR-FORM)"
    )
    flags.add_settings(command, ["engine"])


def run(arguments: argparse.Namespace) -> int:
    """Export a model as the command line asks; return the exit status.

    Raises:  OSError, ValueError and ImportError with a message for the user
    """
    model, tokenizer = checkpoint.load_gpt(arguments.model, flags.given(arguments).get("engine"))
    out = arguments.out or Path(f"{os.path.normpath(arguments.model)}-{arguments.to}")
    write, read = FORMS[arguments.to]
    if out.exists():
        raise FileExistsError(17, "exists already: choose another --out", str(out))
    # Beside its place until it is whole and compared.
    work = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    work.mkdir()
    try:
        write(model, tokenizer, work)
        difference, largest = compare(model, read(work))
        if not difference <= TOLERANCE * largest:
            raise ValueError(
                f"the export to {arguments.to} differs: logits by up to {difference:.3g} where "
                f"the largest is {largest:.3g}; nothing was written"
            )
        names = ", ".join(sorted(path.name for path in work.iterdir()))
        os.replace(work, out)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    verdict = "equal to the last bit" if difference == 0 else f"equal to within {difference:.2g}"
    print(f"{out}: {names}; loaded again: logits {verdict}")
    return 0


def compare(model: GPT, logits: Logits) -> tuple[float, float]:
    """Return the largest difference between a runtime's logits and ours, and our largest.

    Raises:  ValueError if the runtime's logits have another shape
    """
    rng, config = random.Random(0), model.config
    lengths = [*range(1, min(8, config.block_size) + 1), *[config.block_size] * TEXTS]
    difference = largest = 0.0
    for n in lengths:
        tokens = [rng.randrange(config.vocab_size) for _ in range(n)]
        ours = model.look([*tokens, 0]).activations["logits"]
        theirs = logits(tokens)
        if theirs.shape != ours.shape:
            raise ValueError(f"logits of shape {theirs.shape}, not {ours.shape}")
        distance = float(abs(ours - theirs).max())
        difference = distance if not distance <= difference else difference  # NaN counts
        largest = max(largest, float(abs(ours).max()))
    return difference, largest


def write_torch(model: GPT, tokenizer: CharTokenizer, out: Path) -> None:
    checkpoint.save(out, model, tokenizer)
    shutil.copyfile(SOURCES / "torch_model.py", out / "model.py")


def read_torch(out: Path) -> Logits:
    torch = extras.need("torch", "export --to torch", "torch")
    extras.need("safetensors", "export --to torch", "torch")
    model, _ = runpy.run_path(str(out / "model.py"))["load"]()

    def logits(tokens: Sequence[int]) -> Any:
        with torch.no_grad():
            return model(torch.tensor(tokens)).numpy()

    return logits


def write_numpy(model: GPT, tokenizer: CharTokenizer, out: Path) -> None:
    numpy = extras.need("numpy", "export --to numpy")
    config = dataclasses.asdict(model.config)
    # Code points: numpy's own strings lose a NUL at the end.
    vocabulary = numpy.array([ord(char) for char in tokenizer.chars], dtype="int64")
    numpy.savez(out / "model.npz", **matrices(model), **config, vocabulary=vocabulary)
    shutil.copyfile(SOURCES / "numpy_model.py", out / "model.py")


def read_numpy(out: Path) -> Logits:
    program = runpy.run_path(str(out / "model.py"))
    weights, _ = program["load"]()
    return lambda tokens: program["gpt"](tokens, weights)


def write_json(model: GPT, tokenizer: CharTokenizer, out: Path) -> None:
    whole = {
        "format": "microgpt",
        "config": dataclasses.asdict(model.config),
        "vocabulary": tokenizer.chars,
        "weights": {name: matrix.tolist() for name, matrix in matrices(model).items()},
    }
    with files.replacing(out / "model.json") as file:
        file.write(json.dumps(whole, allow_nan=False).encode())


def read_json(out: Path) -> Logits:
    from microgpt import engine

    whole = json.loads((out / "model.json").read_bytes())
    model: GPT = engine.GPT(**whole["config"])
    rows = [row for matrix in whole["weights"].values() for row in matrix]
    model.set_weights(array("d", [weight for row in rows for weight in row]))
    return lambda tokens: model.look([*tokens, 0]).activations["logits"]


def write_onnx(model: GPT, tokenizer: CharTokenizer, out: Path) -> None:
    onnx = extras.need("onnx", "export --to onnx", "onnx")
    graph = _onnx_graph(onnx, model)
    whole = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.helper.set_model_props(
        whole,
        {
            "format": "microgpt",
            "config": json.dumps(dataclasses.asdict(model.config)),
            "vocabulary": "".join(tokenizer.chars),
        },
    )
    onnx.checker.check_model(whole)
    onnx.save(whole, str(out / "model.onnx"))


def read_onnx(out: Path) -> Logits:
    numpy = extras.need("numpy", "export --to onnx", "onnx")
    runtime = extras.need("onnxruntime", "export --to onnx", "onnx")
    session = runtime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    return lambda tokens: session.run(None, {"tokens": numpy.array(tokens, dtype="int64")})[0]


def _onnx_graph(onnx: Any, model: GPT) -> Any:
    """Return the model as a graph of ONNX operators: tokens (n,) to logits (n, vocab_size)."""
    numpy = extras.need("numpy", "export --to onnx", "onnx")
    helper, config = onnx.helper, model.config
    nodes: list[Any] = []
    constants = {name: numpy.ascontiguousarray(w) for name, w in matrices(model).items()}
    for name in list(constants):
        if name not in ("wte", "wpe"):  # MatMul takes x times w, where linear takes rows of w
            constants[name] = numpy.ascontiguousarray(constants[name].T)
    ahead = numpy.triu(numpy.full((config.block_size, config.block_size), -numpy.inf), 1)
    constants |= {
        "ahead": ahead,
        "epsilon": numpy.array(1e-5),
        "scale": numpy.array(config.head_dim**0.5),
        "start": numpy.zeros(1, "int64"),
        "axis0": numpy.zeros(1, "int64"),
        "axis1": numpy.ones(1, "int64"),
        "heads": numpy.array([0, config.n_head, config.head_dim], "int64"),
        "joined": numpy.array([0, config.n_embd], "int64"),
    }

    def add(operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(nodes)}"
        nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def rmsnorm(x: str) -> str:
        mean = add("ReduceMean", add("Mul", x, x), axes=[-1], keepdims=1)
        return add("Div", x, add("Sqrt", add("Add", mean, "epsilon")))

    def heads(x: str, order: list[int]) -> str:
        return add("Transpose", add("Reshape", x, "heads"), perm=order)

    n = add("Shape", "tokens")
    positions = add("Slice", "wpe", "start", n, "axis0")
    mask = add("Slice", add("Slice", "ahead", "start", n, "axis0"), "start", n, "axis1")
    x = rmsnorm(add("Add", add("Gather", "wte", "tokens"), positions))
    for i in range(config.n_layer):
        layer = f"layer{i}."
        h = rmsnorm(x)
        q = heads(add("MatMul", h, layer + "attn_wq"), [1, 0, 2])
        k = heads(add("MatMul", h, layer + "attn_wk"), [1, 2, 0])
        v = heads(add("MatMul", h, layer + "attn_wv"), [1, 0, 2])
        scores = add("Add", add("Div", add("MatMul", q, k), "scale"), mask)
        attended = add("MatMul", add("Softmax", scores, axis=-1), v)
        attended = add("Reshape", add("Transpose", attended, perm=[1, 0, 2]), "joined")
        x = add("Add", add("MatMul", attended, layer + "attn_wo"), x)
        hidden = add("Relu", add("MatMul", rmsnorm(x), layer + "mlp_fc1"))
        x = add("Add", add("MatMul", hidden, layer + "mlp_fc2"), x)
    nodes.append(helper.make_node("MatMul", [x, "lm_head"], ["logits"]))
    kinds = onnx.TensorProto
    return helper.make_graph(
        nodes,
        "microgpt",
        [helper.make_tensor_value_info("tokens", kinds.INT64, ["n"])],
        [helper.make_tensor_value_info("logits", kinds.DOUBLE, ["n", config.vocab_size])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )


def matrices(model: GPT) -> dict[str, Any]:
    """Return the weights as {name: array (n_out, n_in)}."""
    numpy = extras.need("numpy", "export")
    weights = numpy.array(model.weights())
    found, start = {}, 0
    for name, (n_out, n_in) in model.config.shapes().items():
        found[name] = weights[start : start + n_out * n_in].reshape(n_out, n_in)
        start += n_out * n_in
    return found


FORMS: dict[str, tuple[Callable[[GPT, CharTokenizer, Path], None], Callable[[Path], Logits]]] = {
    "json": (write_json, read_json),
    "numpy": (write_numpy, read_numpy),
    "onnx": (write_onnx, read_onnx),
    "torch": (write_torch, read_torch),
}

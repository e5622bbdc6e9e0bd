"""The public surface: names, signatures, docstrings and stubs, equal between engines."""

import ast
import importlib
import importlib.metadata
import inspect
import typing
from pathlib import Path

import pytest

import microgpt
from microgpt import oracle

PACKAGE = Path(microgpt.__file__).parent
TESTS = Path(__file__).parent
# What compiling adds: pickling without recursion into slots.
ADDED = {"__setstate__", "__reduce__"}
REPLAY = {"forward", "refresh", "run"}  # of Tape: the oracle keeps no operations


def methods(cls):
    return {name for name in dir(cls) if not name.startswith("_") and callable(getattr(cls, name))}


def parameters(function):
    return [(p.name, p.default) for p in inspect.signature(function).parameters.values()]


def functions(path, cls):
    """Return {method: annotated arguments and result} of a class, as its source says."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    body = next(n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == cls)
    found = {}
    for node in body:
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args][1:]
            annotations = [ast.unparse(a.annotation) for a in arguments if a.annotation]
            defaults = [ast.unparse(default) for default in node.args.defaults]
            result = node.returns and ast.unparse(node.returns)
            found[node.name] = (annotations, defaults, result)
    return found


def test_all_lists_what_star_imports():
    names = {}
    exec("from microgpt import *", names)
    assert set(names) - {"__builtins__"} == set(microgpt.__all__)
    assert microgpt.__all__ == sorted(microgpt.__all__, key=lambda n: (not n.isupper(), n))


@pytest.mark.parametrize("name", microgpt.__all__)
def test_every_public_name_is_documented_and_tested(name):
    assert getattr(microgpt, name).__doc__
    sources = [p.read_text(encoding="utf-8") for p in TESTS.glob("test_*.py")]
    assert any(name in source for source in sources)


@pytest.mark.parametrize("cls", ["Value", "Tape"])
def test_compiled_classes_have_the_oracles_names(compiled_scalar, cls):
    ours, specified = set(dir(getattr(compiled_scalar, cls))), set(dir(getattr(oracle, cls)))
    assert ours - specified <= ADDED | (REPLAY if cls == "Tape" else set())
    python_only = {"__module__", "__slots__", "__slotnames__", "__annotations__", "_nodes"}
    python_only |= {"_data", "_grad", "_slopes", "_operand"}
    python_only |= {"__firstlineno__", "__static_attributes__"}  # from 3.13 on
    assert specified - ours <= python_only


@pytest.mark.parametrize("cls", ["Value", "Tape"])
def test_compiled_classes_have_the_oracles_signatures_and_docstrings(compiled_scalar, cls):
    ours, specified = getattr(compiled_scalar, cls), getattr(oracle, cls)
    assert parameters(ours) == parameters(specified)
    assert inspect.getdoc(ours) == inspect.getdoc(specified)
    assert methods(ours) - REPLAY == methods(specified)
    for name in methods(specified):
        assert parameters(getattr(ours, name)) == parameters(getattr(specified, name)), name
        assert inspect.getdoc(getattr(ours, name)) == inspect.getdoc(getattr(specified, name)), name


def test_every_engine_has_the_same_model_and_optimizer(compiled, oracle):
    for ours, specified in ((compiled.GPT, oracle.GPT), (compiled.Adam, oracle.Adam)):
        assert parameters(ours) == parameters(specified)
        assert methods(ours) >= methods(specified)
        for name in methods(specified):
            assert parameters(getattr(ours, name)) == parameters(getattr(specified, name)), name


@pytest.mark.parametrize("cls", ["Value", "Tape"])
def test_stubs_say_what_the_oracle_says(cls):
    specified = functions(PACKAGE / "oracle.py", cls)
    stubs = functions(PACKAGE / "_value.pyi", cls)
    for name, (annotations, defaults, result) in specified.items():
        if name in ("__repr__", "_operand"):  # object's own; the oracle's alone
            continue
        if cls == "Tape" and name == "__init__":  # the compiled tape is made before it is seen
            assert stubs["__new__"][0] == annotations
            continue
        if name in ("__pow__", "__rpow__"):  # C's slot has room for a modulus, which must be None
            assert stubs[name][0][:1] == annotations
            continue
        assert stubs[name] == (annotations, defaults, result), name


HINTED = ["adam", "engine", "functions", "gpt", "gradient", "micrograd", "oracle", "tokenizer"]


def public_functions(module):
    """Yield the public functions of a module, and all methods of its classes."""
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", "") != module.__name__:
            continue
        if inspect.isclass(thing):
            yield thing
            for member in vars(thing).values():
                if inspect.isfunction(member):
                    yield member
                elif isinstance(member, property):
                    yield member.fget
        elif inspect.isfunction(thing):
            yield thing


@pytest.mark.parametrize("name", HINTED)
def test_annotations_can_be_evaluated(name):
    module = importlib.import_module(f"microgpt.{name}")
    found = list(public_functions(module))
    assert found
    for thing in found:
        typing.get_type_hints(thing)


def test_the_version_is_the_distributions():
    assert importlib.metadata.version("microgpt-cython") == microgpt.__version__

"""Print the site's reference, in Markdown: signatures and docstrings as the package has them.

The oracle's classes are shown: every engine's have the same surface, which tests compare.
"""

from __future__ import annotations

import inspect
import os
import re

os.environ["MICROGPT_ENGINE"] = "python"

import microgpt
from microgpt import engine, functions, gradient, look, micrograd, tokenizer
from microgpt.gpt import Config, gpt

ORACLE = engine.load("python")
FUNCTIONS = [
    "linear",
    "softmax",
    "rmsnorm",
    "attention",
    "cross_entropy",
    "dot",
    "maximum",
    "where",
]
SECTIONS = {
    "Autograd": [ORACLE.Value, ORACLE.Tape, gradient.value_and_grad, functions.Operation],
    "The model": [ORACLE.GPT, Config, gpt, ORACLE.Adam, tokenizer.CharTokenizer],
    "Looking inside": [look.Look],
    "Functions over lists of Value": [getattr(functions, name) for name in FUNCTIONS],
    "Engines": [engine.load, engine.names],
    "microgpt.micrograd": [getattr(micrograd, name) for name in micrograd.__all__],
}
HEAD = """\
# Reference

Made from the docstrings. Their labels: *Shapes* of arguments and
result, *Units*, the *Order* in which numbers are added (it is part of the specification), what is
changed (*Writes*, *Adds to*), what is raised (*Raises*), and the *Source*. Examples begin with

```python
>>> from microgpt import *

```
"""


def main() -> None:
    """Print the page."""
    shown = {thing.__name__ for things in SECTIONS.values() for thing in things}
    for name in sorted(set(microgpt.__all__) - shown):
        SECTIONS["Autograd"].append(getattr(microgpt, name))
    print(HEAD)
    for title, things in SECTIONS.items():
        print(f"## {title}\n")
        for thing in things:
            entry(thing, "###")
            if inspect.isclass(thing):
                for name, member in public(thing):
                    entry(member, "####", f"{thing.__name__}.{name}")


def entry(thing: object, level: str, name: str = "") -> None:
    """Print one name's heading, signature and docstring."""
    name = name or thing.__name__  # type: ignore[attr-defined] # a class or function
    print(f"{level} `{name}`\n")
    lines = [] if isinstance(thing, property) else [f"{name}{signature(thing)}", ""]
    lines += (inspect.getdoc(thing) or "").splitlines()
    print("```text\n" + "\n".join(lines).rstrip() + "\n```\n")


def signature(thing: object) -> str:
    """Return a signature without self and without the modules of its annotations."""
    found = inspect.signature(thing)  # type: ignore[arg-type] # callable
    kept = [p for p in found.parameters.values() if p.name != "self"]
    text = str(found.replace(parameters=kept)).replace("oracle.", "").replace("'", "")
    return re.sub(r"<(?:function|module) ([\w.]+)[^>]*>", r"\1", text)


def public(cls: type) -> list[tuple[str, object]]:
    """Return a class's documented methods and properties, in the order of its source."""
    found = [
        (name, getattr(member, "__func__", getattr(member, "func", member)))
        for base in reversed(cls.__mro__[:-1])
        for name, member in vars(base).items()
        if not name.startswith("_")
        and inspect.getdoc(member)
        and not inspect.isdatadescriptor(member)
    ]
    found += [
        (name, member)
        for base in reversed(cls.__mro__[:-1])
        for name, member in vars(base).items()
        if isinstance(member, property) and not name.startswith("_")
    ]
    return [
        (name, member)
        for name, member in dict(found).items()
        if callable(member) or isinstance(member, property)
    ]


if __name__ == "__main__":
    main()

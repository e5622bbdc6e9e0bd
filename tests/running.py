"""Running a script in both ways: by Python itself and by `microgpt run`."""

import ast
import os
import subprocess
import sys
from pathlib import Path

from microgpt.run.recognise import plan

SCRIPTS = Path(__file__).parent / "scripts"
TRAIN = (SCRIPTS / "train.py").read_text(encoding="utf-8")
CLASS = TRAIN[TRAIN.index("class Value:") : TRAIN.index("n_embd = 8")]


def replaced(source):
    """Return the names that a script's plan replaces."""
    return [name for _, name, _ in sorted(plan(ast.parse(source)).replaced)]


def reasons(source):
    return " / ".join(reason for _, _, reason in plan(ast.parse(source)).kept)


def start(command, cwd, stdin="", **environment):
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "0", **environment},
        timeout=120,
    )


def both(tmp_path, source, *args, stdin="", name="script.py"):
    """Run a script in both ways; return the two completed processes."""
    (tmp_path / "words.txt").write_bytes((SCRIPTS / "words.txt").read_bytes())
    (tmp_path / name).write_text(source, encoding="utf-8")
    return (
        start([name, *args], tmp_path, stdin),
        start(["-m", "microgpt.run", name, *args], tmp_path, stdin),
    )


def same(tmp_path, source, *args, **options):
    alone, compiled = both(tmp_path, source, *args, **options)
    assert compiled.stdout == alone.stdout, compiled.stderr
    assert compiled.returncode == alone.returncode, compiled.stderr
    return alone, compiled


def edited(source, *pairs):
    """Return a script with texts replaced; each has to be there."""
    for old, new in pairs:
        assert old in source, old
        source = source.replace(old, new)
    return source

"""Run a script in two ways: by Python itself and by `microgpt run`."""

import contextlib
import io
import os
import subprocess
import sys
import traceback
import types
import warnings
from pathlib import Path

from microgpt.run import functions, loops
from microgpt.run.watch import Watch

SCRIPTS = Path(__file__).parent / "scripts"
TRAIN = (SCRIPTS / "train.py").read_text(encoding="utf-8")
CLASS = TRAIN[TRAIN.index("class Value:") : TRAIN.index("n_embd = 8")]


class Outcome:
    """What a script printed, how it ended, and what was replaced in it."""

    def __init__(self, output, ending, watch):
        self.output, self.ending, self.watch = output, ending, watch

    @property
    def replaced(self):
        return [name for _, name, _ in self.watch.adoptions]

    @property
    def functions(self):
        return sorted(name for _, name, _ in functions.replaced)

    @property
    def loops(self):
        return sorted(loop.line for loop in loops.compiled)

    @property
    def reasons(self):
        return " / ".join(reason for _, _, reason in self.watch.refusals)

    @property
    def native(self):
        return set(self.watch.adoptions[0][2].native)


def executed(source, *, plain, path=None):
    """Run a script's text in this process, replaced or plain."""
    functions.replaced.clear()
    functions._adoptions.clear()
    functions._pending.clear()
    loops.compiled.clear()
    watch = Watch(plain=plain)
    main = types.ModuleType("__main__")
    main.__file__ = str(path or SCRIPTS / "script.py")
    before = sys.modules["__main__"], list(sys.path), set(sys.modules), sys.argv
    sys.argv = [main.__file__]
    sys.modules["__main__"] = main
    sys.path.insert(0, os.path.dirname(main.__file__))
    output, ending = io.StringIO(), "end"
    watch.install()
    try:
        with contextlib.redirect_stdout(output), warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # the scripts' own open files
            exec(watch.code(source, main.__file__), main.__dict__)
    except BaseException as error:
        ending = "".join(traceback.format_exception_only(type(error), error))
    finally:
        watch.uninstall()
        sys.modules["__main__"] = before[0]
        sys.path[:] = before[1]
        sys.argv = before[3]
        for name in set(sys.modules) - before[2]:
            file = getattr(sys.modules[name], "__file__", None) or ""
            if file.startswith(os.path.dirname(main.__file__)):
                del sys.modules[name]
    return Outcome(output.getvalue(), ending, watch)


def same(source, path=None):
    """Run a script's text in both ways; it has to print and to end the same. Return the second."""
    alone = executed(source, plain=True, path=path)
    compiled = executed(source, plain=False, path=path)
    assert compiled.output == alone.output
    assert compiled.ending == alone.ending
    return compiled


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
    """Run a script in two processes; return the two completed ones."""
    (tmp_path / "words.txt").write_bytes((SCRIPTS / "words.txt").read_bytes())
    (tmp_path / name).write_text(source, encoding="utf-8")
    return (
        start([name, *args], tmp_path, stdin),
        start(["-m", "microgpt.run", name, *args], tmp_path, stdin),
    )


def edited(source, *pairs):
    """Return a script with texts replaced; each has to be there."""
    for old, new in pairs:
        assert old in source, old
        source = source.replace(old, new)
    return source

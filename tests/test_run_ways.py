"""The ways to compiled nodes beside `microgpt run SCRIPT.py`: notebooks, one line at the top, imports."""

import json
import os
import sys
import textwrap

import pytest
from running import CLASS, start

IMPORT = "import math\n\n\n"
USE = """
x = [Value(0.1 * k) for k in range(1, 5)]


def total(values):
    return sum(v * v for v in values)


y = total(x) * 0.5 + x[0].exp()
y.backward()
print(y.data, [v.grad for v in x])
"""
IS_COMPILED = "print(Value.data.__objclass__.__module__)\n"
COMPILED = "microgpt._script\n"
SHELL = """
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance(colors="nocolor")
for cell in open(sys.argv[1]).read().split("# %%\\n"):
    result = shell.run_cell(cell, store_history=True)
    print("cell", result.success)
"""


def shell(tmp_path, *cells):
    """Run cells in an IPython shell of a process of its own."""
    (tmp_path / "cells.txt").write_text("# %%\n".join(cells), encoding="utf-8")
    done = start(["-c", SHELL, "cells.txt"], tmp_path, IPYTHONDIR=str(tmp_path))
    assert done.stdout.count("cell True") == len(cells), done.stdout + done.stderr
    return done


def test_class_of_an_installed_package_is_compiled(tmp_path):
    package = tmp_path / "site-packages" / "engine"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(IMPORT + CLASS, encoding="utf-8")
    source = f"import sys\nsys.path.append('site-packages')\nfrom engine import Value\n{USE}{IS_COMPILED}"
    (tmp_path / "script.py").write_text(source, encoding="utf-8")
    done = start(["-m", "microgpt.run", "script.py"], tmp_path)
    assert done.stdout.endswith(COMPILED), done.stderr


def test_load_ext_compiles_the_classes_of_later_cells(tmp_path):
    plain = shell(tmp_path, IMPORT + CLASS, USE)
    done = shell(tmp_path, "%load_ext microgpt", IMPORT + CLASS, USE, IS_COMPILED)
    assert plain.stdout.splitlines()[1] in done.stdout
    assert COMPILED in done.stdout


def test_class_of_a_later_cell_takes_the_place_of_the_former(tmp_path):
    second = CLASS.replace("math.exp(self.data)", "math.exp(self.data + 0.5)")
    cells = [
        IMPORT + CLASS,
        USE,
        "old = x[0]\n" + second,
        USE,
        "print(old.exp().data, x[0].exp().data, type(old) is Value)",
    ]
    plain = shell(tmp_path, *cells)
    done = shell(tmp_path, "%load_ext microgpt", *cells)
    assert done.stdout == "cell True\n" + plain.stdout


def test_loop_over_parameters_in_a_cell_is_compiled(tmp_path):
    loop = """
p = [Value(0.01 * k) for k in range(200)]
for v in p:
    v.grad = 0.5
    v.data -= 0.1 * v.grad
print(sum(v.data for v in p))
"""
    report = "print('\\n'.join(get_ipython().microgpt_watch.lines()))"
    plain = shell(tmp_path, IMPORT + CLASS, loop)
    done = shell(tmp_path, "%load_ext microgpt", IMPORT + CLASS, loop, report)
    assert plain.stdout.splitlines()[1] in done.stdout
    assert "cell 3:2: the loop is replaced by vector operations" in done.stdout


def test_cell_that_gives_a_built_in_name_another_meaning_is_followed(tmp_path):
    cells = [IMPORT + CLASS, USE, "max = lambda a, b: a + b", "print(Value(-1.5).relu().data)"]
    plain = shell(tmp_path, *cells)
    done = shell(tmp_path, "%load_ext microgpt", *cells)
    assert done.stdout == "cell True\n" + plain.stdout


def test_class_that_stays_is_named_under_its_cell(tmp_path):
    done = shell(tmp_path, "%load_ext microgpt", IMPORT + CLASS.replace("grad +=", "grad ="))
    assert "microgpt run: cell 2:4: Value is left as it is: probe" in done.stderr


def notebook(tmp_path, *cells):
    content = {
        "cells": [
            {
                "cell_type": "code",
                "source": cell,
                "metadata": {},
                "outputs": [],
                "execution_count": None,
            }
            for cell in cells
        ],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        "nbformat": 4,
        "nbformat_minor": 4,
    }
    (tmp_path / "n.ipynb").write_text(json.dumps(content), encoding="utf-8")


def test_notebook_runs_as_a_whole(tmp_path):
    notebook(tmp_path, IMPORT + CLASS, USE, IS_COMPILED + "[y.data, 'shown']", "1 / 0")
    done = start(["-m", "microgpt", "run", "n.ipynb"], tmp_path)
    (tmp_path / "script.py").write_text(IMPORT + CLASS + USE)
    plain = start(["script.py"], tmp_path)
    assert done.stdout.startswith(plain.stdout + COMPILED)
    assert "'shown']" in done.stdout
    assert "ZeroDivisionError" in done.stderr
    assert done.returncode == 1


def test_notebook_is_explained(tmp_path):
    notebook(tmp_path, IMPORT + CLASS, USE)
    done = start(["-m", "microgpt", "run", "--explain", "n.ipynb"], tmp_path)
    assert "Value is replaced by a compiled class: __add__" in done.stdout
    assert "0.5" not in done.stdout


def test_notebook_without_nbclient_is_one_line_that_says_how(tmp_path):
    notebook(tmp_path, "1")
    code = "import sys; sys.modules['nbclient'] = None; from microgpt.run import main; sys.exit(main())"
    done = start(["-c", code, "n.ipynb"], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "pip install nbclient" in done.stderr
    assert "%load_ext microgpt" in done.stderr


def test_file_that_is_no_notebook_is_one_line(tmp_path):
    (tmp_path / "n.ipynb").write_text("{")
    done = start(["-m", "microgpt", "run", "n.ipynb"], tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


def test_one_line_at_the_top_compiles_a_program(tmp_path):
    source = IMPORT + CLASS + USE + "import sys\nprint(sys.argv, __name__, __file__)\nsys.exit(3)\n"
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "program.py").write_text(source)
    (tmp_path / "b" / "program.py").write_text("import microgpt.run.here\n" + source)
    plain, done = (start([f"{folder}/program.py", "--flag"], tmp_path) for folder in "ab")
    assert done.stdout == plain.stdout.replace("a/program.py", "b/program.py")
    assert done.returncode == plain.returncode == 3
    (tmp_path / "b" / "program.py").write_text(
        "import microgpt.run.here\n" + IMPORT + CLASS + IS_COMPILED
    )
    assert start(["b/program.py"], tmp_path).stdout == COMPILED


def test_line_at_the_top_changes_nothing_of_a_program_that_is_run_so_already(tmp_path):
    source = "import microgpt.run.here\n" + IMPORT + CLASS + USE + IS_COMPILED
    (tmp_path / "program.py").write_text(source)
    alone = start(["program.py"], tmp_path)
    run = start(["-m", "microgpt", "run", "program.py"], tmp_path)
    assert run.stdout == alone.stdout
    assert COMPILED in run.stdout


def test_file_called_microgpt_imports_the_package_by_its_other_name(tmp_path):
    (tmp_path / "microgpt.py").write_text(
        textwrap.dedent("""
        from microgpt_cython import Value, softmax

        a = Value(0.5)
        (a * a).backward()
        print(a.grad, Value.__module__, [p.data for p in softmax([a, a])])
        """)
    )
    done = start(["microgpt.py"], tmp_path)
    assert done.stdout.startswith("1.0 microgpt"), done.stderr
    assert "[0.5, 0.5]" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pty")
def test_on_a_terminal_one_line_at_the_end_says_what_was_compiled(tmp_path):
    import pty

    (tmp_path / "script.py").write_text(IMPORT + CLASS + USE)
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execv(sys.executable, [sys.executable, "-m", "microgpt", "run", "script.py"])
    output = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        output += part
    os.close(terminal)
    assert os.waitpid(pid, 0)[1] == 0
    first, last = output.decode().replace("\r\n", "\n").splitlines()
    assert first.startswith("1.2")
    assert last == "microgpt run: Value compiled"


def test_in_a_pipe_nothing_is_added(tmp_path):
    (tmp_path / "script.py").write_text(IMPORT + CLASS + USE)
    assert start(["-m", "microgpt", "run", "script.py"], tmp_path).stderr == ""


# ------------------------------------------------------------------- one changed import

OWN = """
import math


def gelu(x):
    t = math.tanh(0.8 * (x.data + 0.044715 * x.data**3))
    return Value(0.5 * x.data * (1 + t), (x,), (0.5 * (1 + t),))


def total(kind):
    x = [kind(0.1 * k - 0.3) for k in range(6)]
    y = sum(softmax([a.gelu() for a in x] + [1.0, 2])[:3]) + linear([*x[:2], 0.5], [[x[0], 2, x[1]]])[0]
    y = y + rmsnorm([x[2], 1, 0.25])[0] * x[3].gelu()
    y.backward()
    return [y.data.hex(), *(float(a.grad).hex() for a in x)]


class Wide(Value):
    def gelu(self):
        return gelu(self)


wide = total(Wide)
Value.gelu = gelu
print(total(Value) == wide, *wide)
"""


def test_operations_of_its_own_and_plain_numbers_are_as_the_originals(tmp_path):
    for name, imports in {
        "one.py": "from microgpt import Value, linear, rmsnorm, softmax\n",
        "plain.py": "from microgpt.oracle import Value\n"
        "from microgpt import engine\nfunctions = engine.load('python').functions\n"
        "linear, rmsnorm, softmax = functions.linear, functions.rmsnorm, functions.softmax\n",
    }.items():
        (tmp_path / name).write_text(imports + OWN, encoding="utf-8")
    plain, compiled = (start([name], tmp_path) for name in ("plain.py", "one.py"))
    assert compiled.stdout == plain.stdout
    assert compiled.stdout.startswith("True "), compiled.stderr + plain.stderr

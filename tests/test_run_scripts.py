"""Small scripts of the kinds that people write: each prints the same bytes in both ways."""

import shutil

import pytest
from running import SCRIPTS, same, start

FOLDER = SCRIPTS / "run"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_script_is_replaced_and_prints_the_same(name):
    outcome = same((FOLDER / f"{name}.py").read_text(encoding="utf-8"), FOLDER / f"{name}.py")
    assert outcome.replaced, outcome.reasons
    assert outcome.ending == "end"


def test_module_beside_the_script_with_a_name_of_the_library_is_found(tmp_path):
    (tmp_path / "random.py").write_text("def choice(numbers):\n    return numbers[-1]\n")
    source = (FOLDER / "constructor_set_later.py").read_text(encoding="utf-8")
    (tmp_path / "script.py").write_text(source + "import random\nprint(random.choice([1, 2]))\n")
    alone = start(["script.py"], tmp_path)
    compiled = start(["-m", "microgpt.run", "script.py"], tmp_path)
    assert compiled.stdout == alone.stdout
    assert compiled.stdout.endswith("2\n")


@pytest.mark.parametrize("name", ["functions_then_graph", "closures_of_its_own", "two_classes"])
def test_script_prints_the_same_in_a_process_of_its_own(name, tmp_path):
    shutil.copy(FOLDER / f"{name}.py", tmp_path)
    alone = start([f"{name}.py"], tmp_path)
    compiled = start(["-m", "microgpt.run", f"{name}.py"], tmp_path)
    assert (compiled.stdout, compiled.stderr) == (alone.stdout, alone.stderr)
    assert compiled.returncode == alone.returncode == 0

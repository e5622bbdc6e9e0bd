.PHONY: asan bench build docs fuzz heavy lint matrix mutants test type valgrind

build:
	pip install --no-build-isolation -e .

lint:
	ruff check . && ruff format --check . && cython-lint src && check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

type:
	mypy && stubtest microgpt._value microgpt._gpt --allowlist tests/stubtest.txt --ignore-disjoint-bases

test:
	pytest

bench:
	pytest benchmarks --benchmark-only --benchmark-json=build/benchmarks.json && python benchmarks/report.py build/benchmarks.json --all docs/speed.md --readme README.md --ways docs/which.md --plot docs/benchmarks.svg

asan:
	.ci/sanitize gcc

docs:
	mkdocs build --strict

heavy:
	pytest -m heavy

fuzz:
	python tests/fuzz --seconds 600

matrix:
	.ci/matrix

mutants:
	python tests/mutants

valgrind:
	PYTHONMALLOC=malloc valgrind -q --undef-value-errors=no --suppressions=.ci/valgrind.supp --error-exitcode=9 `which python` `which pytest` -q tests/test_adam.py tests/test_threads.py -k "not interpreter"

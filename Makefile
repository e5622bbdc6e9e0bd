.PHONY: help asan bench build cross docs fuzz heavy lint matrix mutants newest pure size test type valgrind
.DEFAULT_GOAL := help

help: # this list
	@sed -n 's/^\([a-z]*\):.*# \(.*\)/\1|\2/p' Makefile | column -t -s '|'

build: # compile again after a change in src/, in place
	pip install --no-build-isolation -e .

lint: # ruff, cython-lint, the workflows' schema
	ruff check . && ruff format --check . && cython-lint src && check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

type: # mypy --strict, and the stubs against the compiled modules
	mypy && stubtest microgpt._value microgpt._gpt microgpt._kernels microgpt._record microgpt._script --allowlist tests/stubtest.txt --ignore-disjoint-bases

test: # the tests, in a few minutes
	pytest

pure: # the tests that depend on the default engine, with pure Python; tests.yml runs all tests so
	cd tests && MICROGPT_ENGINE=python pytest -q $(addprefix test_,$(addsuffix .py,adam checkpoint cli data functions oracle package pickles public resume streams tokenizer))

bench: # the benchmarks, README's and docs' tables, the plot
	pytest --benchmark-only --benchmark-json=build/benchmarks.json && python benchmarks/report.py build/benchmarks.json --all docs/speed.md --readme README.md --ways docs/which.md --plot docs/benchmarks.svg

size: # lines by folder
	@git ls-files '*.py' '*.pyi' '*.pyx' '*.pxd' '*.pxi' '*.h' '*.c' | xargs wc -l | awk '$$2 != "total" { sub("/[^/]*$$", "", $$2); lines[$$2] += $$1; all += $$1 } END { for (f in lines) print f "|" lines[f]; print "total|" all }' | sort | column -t -s '|' -R 2

docs: # the reference from the docstrings, and the pages as a site
	mkdocs build --strict

heavy: # the tests that need torch, ONNX or a browser
	pytest -m heavy

mutants: # edits of the source, each of which some test must notice; hours
	python tests/mutants

fuzz: # ten minutes of random programs on all engines
	python tests/fuzz --seconds 600

asan: # the suite under the address and undefined-behaviour sanitizers
	.ci/sanitize gcc

valgrind: # Adam's tests and those of threads under valgrind
	PYTHONMALLOC=malloc valgrind -q --undef-value-errors=no --suppressions=.ci/valgrind.supp --error-exitcode=9 `which python` `which pytest` -q tests/test_adam.py tests/test_threads.py -k "not interpreter"

matrix: # the suite on CPython 3.10 to 3.13, gcc and clang
	.ci/matrix

newest: # the suite on CPython 3.14 and 3.15, in a chroot of Debian sid
	.ci/newest

cross: # the C compiled for macOS and Windows
	.ci/cross

.PHONY: asan bench build fuzz lint matrix test type

build:
	pip install --no-build-isolation -e .

lint:
	ruff check . && ruff format --check . && cython-lint src

type:
	mypy && stubtest microgpt._engine microgpt._kernels --allowlist tests/stubtest.txt --ignore-disjoint-bases

test:
	pytest

bench:
	pytest benchmarks --benchmark-only --benchmark-json=build/benchmarks.json && python benchmarks/report.py build/benchmarks.json --readme README.md --plot docs/benchmarks.svg

asan:
	.ci/sanitize gcc

fuzz:
	python -m microgpt.fuzz --seconds 600

matrix:
	.ci/matrix

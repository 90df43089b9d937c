# `make demo` and `make test` set everything up by themselves: a virtual environment in .venv, versions from constraints.txt.
PYTHON ?= python3
# PyPI's torch brings several GB of CUDA packages; without a GPU spare them by
# make setup PIP_OPTIONS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_OPTIONS ?=
BIN := .venv/bin
READY := .venv/.ready

.PHONY: setup demo test check bench clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

demo: setup
	$(BIN)/parti demo configs/demo/demo.toml

# Two processes, each a file of tests at a time.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# make bench ONLY=loader runs one of them.
bench: setup
	$(BIN)/python -m tests.benchmarks.run $(ONLY)

clean:
	rm -rf .venv build *.egg-info

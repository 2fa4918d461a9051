# Everything runs in .venv, which is made once and again when pyproject.toml or constraints.txt
# change. PYTHON picks the interpreter: make PYTHON=python3.12 test
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.stamp
EXEC := .venv/.exec
COMPILED := .venv/.compiled

.DEFAULT_GOAL := test
.PHONY: run test test-slow compile bench validate lint docs browser oracle clean

## Simulate the bundled trace; the result folder goes to runs/.
run: $(COMPILED)
	$(BIN)/superinfer-sim run traces/samples/mixed.jsonl

## All fast tests. Budget: fifteen minutes on two cores; mark what takes longer than a few seconds `slow`.
test: $(EXEC)
	$(BIN)/pytest -n 2 -m "not slow and not gpu" --durations=5 --durations-min=2

## The slow tests, two at a time: each takes a half, and who is done first goes on with the other's.
test-slow: compile $(EXEC)
	@$(BIN)/pytest -m slow --collect-only -qq > /dev/null 2>&1; \
	if [ $$? -eq 5 ]; then echo "There are no slow tests."; \
	else $(BIN)/pytest -n 2 --dist worksteal -m slow --durations=5; fi

## Turn the modules of the hot path into machine code, unless they are that already.
compile: $(STAMP)
	@$(COMPILE)

## Speed of the simulator.
bench: compile
	$(BIN)/python -m experiments.bench

## The simulator against the executor on this CPU, with the shipped model; some minutes.
## RECORD=experiments/results/cpu leaves figures and pictures there.
RECORD ?=
validate: compile $(EXEC)
	$(BIN)/python -m experiments.validate_cpu $(if $(RECORD),--record $(RECORD))

## Style, format and types.
lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

## What is made in README.md and docs/: tables of recorded results, the reference, and what commands
## print; some minutes.
docs: $(EXEC)
	$(BIN)/python -m experiments.tables
	$(BIN)/python -m experiments.reference
	$(BIN)/python -m experiments.documents --write

## Chromium for the slow tests of reports, with apt-get; where that cannot be, they skip.
browser:
	@.ci/browser

## The model of vLLM V1 beside the real scheduler (CPU only), on CASES random cases. Its environment
## is its own and takes some GB; TORCH and pip's own variables choose the build of torch.
VLLM ?= vllm==0.33.0
TORCH ?= torch==2.13.0
CASES ?= 1000
SEED ?= 0
oracle: .venv-oracle/.stamp
	PYTHONPATH=.:tests VLLM_LOGGING_LEVEL=ERROR .venv-oracle/bin/python -m oracle --cases $(CASES) --seed $(SEED)
	PYTHONPATH=.:tests VLLM_LOGGING_LEVEL=ERROR .venv-oracle/bin/python -m oracle --cases $(CASES) --seed $(SEED) --offload

.venv-oracle/.stamp: tests/oracle/requirements.txt
	@echo "Setting up .venv-oracle (some minutes, once)"
	@$(PYTHON) -m venv .venv-oracle
	@.venv-oracle/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	@.venv-oracle/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(VLLM)
	@.venv-oracle/bin/python -m pip install --quiet --disable-pip-version-check -r tests/oracle/requirements.txt
	@touch $@

## Remove the environments, caches and builds; results in runs/ stay.
clean:
	rm -rf .venv .venv-oracle .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	rm -f superinfer/.compiled *.so
	find superinfer sim -name '*.so' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || { \
	  found=$$($(PYTHON) --version 2>&1 | head -n 1); \
	  echo "Python 3.11 or newer is needed; $(PYTHON) gives: $$found. Name another: make PYTHON=python3.12" >&2; \
	  exit 1; }
	@echo "Setting up .venv (a minute or two, once)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]" -c constraints.txt
	@touch $@

# What the executor and its server need; the libraries that its tests compare with; and Ray.
$(EXEC): $(STAMP)
	@echo "Adding torch, Triton and Ray to .venv (some minutes, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[exec,server,peers,ray]" -c constraints.txt
	@touch $@

$(COMPILED): | $(STAMP)
	@$(COMPILE)
	@touch $@

# Without a C compiler everything runs from the sources.
COMPILE = [ superinfer/.compiled -nt setup.py ] && \
  SUPERINFER_INTERPRETED=0 $(BIN)/python -c 'import sys, superinfer; sys.exit(not superinfer.COMPILED)' || { \
  echo "Compiling the core (two or three minutes)"; \
  SUPERINFER_COMPILE=1 $(BIN)/python setup.py -q build_ext --inplace > .venv/compile.log 2>&1 || { \
    tail -n 3 .venv/compile.log >&2; \
    echo "The core could not be compiled (.venv/compile.log): it runs from its sources, slower" >&2; }; }

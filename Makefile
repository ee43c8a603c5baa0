# Every target works alone on a fresh clone: it makes .venv and installs there, once, what it needs.
# Another interpreter: make venv PYTHON=python3.12. Options for the command behind a target, or for
# pytest: make evaluate ARGS="--scenario code-serial-135m", make test ARGS="-k wheel".

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# The tested versions; a machine with a GPU may want others (see constraints.txt).
INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help venv evaluate test fuzz faults bench lint docs train tune reproduce demo-models gpu wheel clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(VENV)/.evaluate  ## make .venv: the package and pictures

evaluate: $(VENV)/.evaluate  ## compare the policies: table, results.json, picture, report/index.html
	$(VENV)/bin/laps-env evaluate $(ARGS)

test: $(VENV)/.dev  ## run the tests, without those for a GPU (ARGS="-m gpu": those alone)
	$(RUN) -m pytest -m "not gpu" $(ARGS)

fuzz: $(VENV)/.dev  ## attack every door with damaged input, 20,000 cases each (ARGS="--seed 1")
	PYTHONPATH=tests $(RUN) -m fuzz $(ARGS)

faults: $(VENV)/.dev  ## kill long jobs at random instants, 20 times each, and compare the results
	PYTHONPATH=tests $(RUN) -m kills $(ARGS)

bench: $(VENV)/.evaluate  ## measure the speed: table and bench.json
	$(RUN) scripts/bench.py $(ARGS)

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

clean:  ## remove .venv, caches and builds; results and models stay
	rm -rf $(VENV) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

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

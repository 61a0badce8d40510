# Everything from a fresh clone with nothing but Python 3.11: `make serve` runs Lifeguard, `make test` tests it.
# Both share one .venv. onnxruntime and onnxruntime-gpu share one import name, so only one of them is ever in it:
# the GPU's where `nvidia-smi` works, else the CPU's (RUNTIME=cpu or RUNTIME=gpu decides otherwise).

VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(or $(RUNTIME),$(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu))
OTHER_RUNTIME := $(if $(filter gpu,$(RUNTIME)),onnxruntime,onnxruntime-gpu)
SERVE := $(VENV)/.serve-$(RUNTIME)
TEST := $(VENV)/.test-$(RUNTIME)

.DEFAULT_GOAL := help
.PHONY: help serve test lint types imports bench clean

help:  ## Show these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

serve: $(SERVE)  ## Serve on 127.0.0.1:8000 with the learner beside it; train the first model when there is none
	$(BIN)/guard serve

# One thread a process: with two they would wait for each other. A file stays in one process, with what it started.
test: $(TEST)  ## Run every test
	OMP_NUM_THREADS=1 $(BIN)/pytest -q --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(TEST)  ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(TEST)  ## Check types
	$(BIN)/mypy

imports: $(TEST)  ## Check which package may import which
	$(BIN)/lint-imports

bench: $(TEST)  ## Measure Lifeguard beside its peers, an hour on two quiet cores: needs a model in exports/ and PyPI
	$(BIN)/python -m benchmarks.peers $(BENCH)

clean:  ## Remove the environment and every cache; the models in exports/ and the data in var/ stay
	rm -rf $(VENV) .clients .prometheus build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# A stamp is newer than what it was installed from, or it is made anew. The tests' environment can serve as well.
$(SERVE): EXTRAS := $(RUNTIME),learner
$(TEST): EXTRAS := $(RUNTIME),learner,dev
$(SERVE) $(TEST): pyproject.toml constraints.txt | $(BIN)/pip
	@rm -f $(VENV)/.serve-* $(VENV)/.test-*
	@$(BIN)/python -m pip --quiet --quiet uninstall --yes $(OTHER_RUNTIME)
	$(BIN)/python -m pip --disable-pip-version-check install --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $(SERVE) $@

$(BIN)/pip:
	@for python in python3.11 python3 python3.12 python3.13; do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    exec $$python -m venv $(VENV); \
	  fi; \
	done; \
	echo "Lifeguard needs Python 3.11 or newer; python3.11, python3, python3.12 and python3.13 were tried." >&2; \
	echo "Install one (Debian, Ubuntu: apt install python3 python3-venv) and run make again." >&2; \
	exit 1

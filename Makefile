PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
YOLOV5 := 7.0.0
MMDET := .stacks/mmdet
TRANSFORMERS := .stacks/transformers
XAITK := .stacks/xaitk
RELEASES := 4.0.14 5.0.10 6.0.7 6.1.9 6.2.3 7.0.0 7.0.14
CHROMIUM ?= $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-checkouts test-stacks test-releases test-report test-mmdet test-transformers test-xaitk test-faults bench figures deletion proof lint train-demo clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.run ## set up, detect on two photographs with the bundled checkpoint, say where the pictures are
	$(BIN)/python detect.py --weights best.pt --visualize-layers 17,20,23

test: lint $(VENV)/.wheels ## set up, lint, check types, run the whole test suite
	$(BIN)/python -m pytest

test-fast: lint $(VENV)/.dev ## lint, check types, run the tests that start no script: two minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-checkouts: $(VENV)/.wheels ## the tests of releases and patches on each YOLOv5 checkout in a folder: make test-checkouts CHECKOUTS=dir
	CHECKOUTS=$(CHECKOUTS) $(BIN)/python -m pytest tests/run/test_releases.py tests/run/test_fork_patch.py -k "checkout or one_diff"

test-stacks: ## the package on old and new Pythons and torches, each in an environment of its own below .stacks
	$(PYTHON) scripts/compatibility.py stacks

test-releases: $(VENV)/.wheels ## release by release what works, as a table: make test-releases CHECKOUTS=dir
	CHECKOUTS=$(CHECKOUTS) $(BIN)/python scripts/compatibility.py releases

test-report: $(VENV)/.browser ## the report in a real browser: Chromium, which must be installed; screenshots go to runs/report
	@test -n "$(CHROMIUM)" || { echo "no Chromium: apt-get install chromium, or make test-report CHROMIUM=/path/to/it"; exit 1; }
	mkdir -p runs/report
	CHROMIUM="$(CHROMIUM)" SCREENSHOTS=runs/report $(BIN)/python -m pytest tests/runs/test_browser.py tests/compare/test_faithfulness_tables.py

test-mmdet: $(MMDET)/.ready ## mmdetection's detectors and timm's models, in an environment of their own (a quarter of an hour to build)
	$(MMDET)/bin/python -m pytest tests/models/test_mmdet.py tests/models/test_detections_mmdet.py tests/models/test_timm.py

test-transformers: $(TRANSFORMERS)/.ready ## transformers' detectors and supervision, in an environment of their own
	OMP_NUM_THREADS=1 $(TRANSFORMERS)/bin/python -m pytest tests/models/test_detections_transformers.py tests/models/test_supervision.py

test-xaitk: $(XAITK)/.ready ## D-RISE beside that of xaitk-saliency, in an environment of its own
	OMP_NUM_THREADS=1 $(XAITK)/bin/python -m pytest tests/attribution/test_xaitk.py -rP

test-faults: $(VENV)/.wheels ## kills, signals, full disks, odd files and fuzz, with counts (minutes)
	$(BIN)/python scripts/faults.py

bench: $(VENV)/.run ## what the pictures cost, against YOLOv5's own and other tools (five minutes, on a quiet machine)
	$(BIN)/python scripts/benchmark.py

figures: $(VENV)/.dev ## make the pictures of README and docs anew, and say which came out differently
	$(BIN)/python scripts/figures.py
	git status --short docs/figures

deletion: $(VENV)/.dev ## the explanation methods by deletion on three detectors, two of which it trains (up to an hour)
	$(BIN)/python scripts/deletion.py

proof: $(VENV)/.dev ## how faithful the explanation methods are on three detectors: the tables of docs/proof.md (up to an hour)
	$(BIN)/python scripts/proof.py

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

$(VENV)/.browser: $(VENV)/.dev requirements-browser.txt
	$(PIP) install --quiet -r requirements-browser.txt
	touch $@

# The other releases' wheels, each in a folder of its own, for tests/run/test_releases.py.
$(VENV)/.wheels: $(VENV)/.dev Makefile
	for release in $(RELEASES); do \
		test -d $(VENV)/wheels/$$release/yolov5 || \
		$(PIP) install --quiet --no-deps --target $(VENV)/wheels/$$release yolov5==$$release || exit 1; \
	done
	touch $@

# mmcv offers no wheel for this torch. pip keeps the one that is built here; nothing of it needs a GPU. Of YOLOv5, the
# tests take the two photographs only.
$(MMDET)/.ready: requirements-mmdet.txt
	test -x $(MMDET)/bin/python || $(PYTHON) -m venv $(MMDET)
	$(MMDET)/bin/python -m pip install --quiet "setuptools<81" wheel
	$(MMDET)/bin/python -m pip install --quiet -r requirements-mmdet.txt
	MMCV_WITH_OPS=1 $(MMDET)/bin/python -m pip install --quiet --no-build-isolation mmcv==2.1.0
	$(MMDET)/bin/python -m pip install --quiet --no-deps mmdet==3.3.0 yolov5==$(YOLOV5)
	touch $@

# Of YOLOv5, the tests take the two photographs only.
$(TRANSFORMERS)/.ready: requirements-transformers.txt
	test -x $(TRANSFORMERS)/bin/python || $(PYTHON) -m venv $(TRANSFORMERS)
	$(TRANSFORMERS)/bin/python -m pip install --quiet -r requirements-transformers.txt
	$(TRANSFORMERS)/bin/python -m pip install --quiet --no-deps yolov5==$(YOLOV5)
	touch $@

$(XAITK)/.ready: requirements-xaitk.txt
	test -x $(XAITK)/bin/python || $(PYTHON) -m venv $(XAITK)
	$(XAITK)/bin/python -m pip install --quiet -r requirements-xaitk.txt
	$(XAITK)/bin/python -m pip install --quiet --no-deps yolov5==$(YOLOV5)
	touch $@

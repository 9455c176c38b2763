# make demo    set up, then compile, verify, profile, explain and search real models
# make test    set up, then run the tests
# make check   ruff, mypy, import-linter (also as make lint) and the core tests: about a minute
# make bench   set up, then print the benchmark tables
# make zoo     set up, then every model of the zoo through every target: hours, resumable, docs/zoo.md
# make clean   remove what the others made
#
# PIP_ARGS goes to every pip install: make demo PIP_ARGS="--index-url https://mirror/simple"

PYTHON ?= python3.11
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OLDER := $(VENV)/tflite-runtime
OUT := out
DATABASE := $(OUT)/measurements.db

.PHONY: demo test check lint bench zoo clean
.DELETE_ON_ERROR:

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable '.[executorch,litert,onnx,tvm,android,ssh,zoo,hf,dev]'
	$(PYTHON) -m venv $(OLDER)
	$(OLDER)/bin/python -m pip install --quiet $(PIP_ARGS) 'tflite-runtime==2.14.0' 'numpy<2'
	touch $@

demo: $(READY)
	mkdir -p $(OUT)
	$(BIN)/edgewright compile timm:mobileone_s0 --profile host --randomize 0 --out $(OUT)/mobileone_s0
	$(BIN)/edgewright profile $(OUT)/mobileone_s0 --device local --database $(DATABASE) --allow-unstable
	$(BIN)/edgewright explain $(OUT)/mobileone_s0
	$(BIN)/edgewright search timm:mobilenetv2_100 --profile host --device local --latency-budget 0.7x --methods precision \
		--calibration examples/calibration.py:batches --randomize 0 \
		--database $(DATABASE) --out $(OUT)/mobilenetv2_100

test: $(READY)
	$(BIN)/pytest -n 2 -m "not slow and not device"

check: lint
	$(BIN)/pytest -n 2 -m core

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

zoo: $(READY)
	$(BIN)/python -m tests.zoo.run --write

clean:
	rm -rf $(VENV) $(OUT) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# Two commands do everything on a fresh machine: `make demo` and `make test`. PYTHON may name a Python 3.11 or 3.12.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
  command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DATASET ?= sample
SWEEP ?= smoke

.PHONY: help setup system demo ui run status test test-services test-cluster check bench pictures deploy clean

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## virtual environment with the pinned, hash-checked dependencies

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Fovea needs Python 3.11 or 3.12 on the PATH (or make PYTHON=/path/to/python3.11)"; exit 1; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version): 7 GB with torch's CUDA libraries, some minutes …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check 'uv>=0.8'
	@test -t 2 || quiet=-q; $(BIN)/uv pip install $$quiet --python $(BIN)/python --require-hashes -r requirements.lock
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@$(BIN)/python -m compileall -q models assets pipelines
	@# else Python keeps what it compiles by itself, and here each command would compile pandas, torch and dagster again
	@test -z "$$PYTHONDONTWRITEBYTECODE" || $(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true
	@touch $@

demo: setup  ## the whole chain on the embedded sample: frames, maps, codecs, tables, report
	@$(BIN)/fovea run --dataset sample --sweep smoke

run: setup  ## fovea run with DATASET=… SWEEP=…
	@$(BIN)/fovea run --dataset $(DATASET) --sweep $(SWEEP)

status: setup  ## what is stale, and why
	@$(BIN)/fovea status --dataset $(DATASET) --sweep $(SWEEP)

ui: setup  ## Dagster UI with its daemon, and the MLflow UI, on loopback; Ctrl-C stops all
	@$(BIN)/fovea ui

test: setup  ## the default tests: no network, no GPU
	@$(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder

test-services: setup  ## one sweep on Ray, S3, PostgreSQL and an MLflow server gives the tables of one machine
	@$(BIN)/python -m pytest -q -m cluster tests/e2e/test_cluster.py -k "not outages"

test-cluster: setup  ## the tests that start PostgreSQL, an S3 server, MLflow's server and Ray on loopback
	@$(BIN)/python -m pytest -q -m cluster

check: setup  ## format, lint, types, import contracts
	@$(BIN)/ruff format --check -q . || { echo "run: $(BIN)/ruff format ."; exit 1; }
	@$(BIN)/ruff check -q .
	@$(BIN)/lint-imports --no-cache > /tmp/fovea-imports.$$$$ 2>&1 || { cat /tmp/fovea-imports.$$$$; rm -f /tmp/fovea-imports.$$$$; exit 1; }; rm -f /tmp/fovea-imports.$$$$
	@$(BIN)/mypy
	@echo "check: all well"

deploy: $(READY)  ## check the files of deploy/ without a cluster (compose, Kubernetes, YAML)
	@$(BIN)/uv run -q --no-project --with check-jsonschema --with kubernetes-validate --with yamllint python deploy/check.py

system:  ## packages of the operating system that some tests use (Chromium, PostgreSQL, SLURM, Butteraugli), on Debian as root
	@missing=$$(command -v chromium >/dev/null || echo chromium chromium-driver; \
	  ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || echo postgresql; \
	  command -v butteraugli_main >/dev/null || echo libjxl-devtools; \
	  ls /usr/sbin/slurmctld /usr/sbin/munged >/dev/null 2>&1 || echo slurmctld slurmd slurm-client munge); \
	if [ -z "$$missing" ] || ! command -v apt-get >/dev/null || [ "$$(id -u)" != 0 ]; then true; else \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi

pictures: setup  ## a walk in a browser through what the demo made; its pictures of the README (FOVEA_WALK: folder with a demo)
	@FOVEA_PICTURES=build/pictures $(BIN)/python -m pytest -q -n 0 -m slow tests/e2e/test_walk.py && cd build/pictures && cp dagster.png mlflow.png report.png report_pictures.png ../../docs/pictures

bench: setup  ## benchmarks against the peers, as ratios in one run
	@for script in tests/benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

lock: $(READY)  ## resolve the dependencies anew (versions and hashes only, no index address)
	@$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --extra cluster --extra dev --extra ocr pyproject.toml -o requirements.lock

clean:  ## forget what can be made again: .fovea and caches
	rm -rf .fovea .pytest_cache .mypy_cache .ruff_cache build *.egg-info

# Each target sets up by itself: an active environment that has torch is used, else .venv
# is made (about 3 minutes, 6 GB). A C compiler is needed for lmdb 1.3.0, which cn_clip pins.

BASE    ?= $(shell command -v python3.11 || command -v python3)
# An active environment counts if it has torch, is recent enough and may be written to.
ACTIVE  := $(shell python -c "import importlib.util as u, os, sys, sysconfig as s; p = s.get_paths(); ok = sys.version_info >= (3, 11) and u.find_spec('torch') and (sys.prefix != sys.base_prefix or not os.path.exists(os.path.join(p['stdlib'], 'EXTERNALLY-MANAGED'))) and all(os.access(x, os.W_OK) for x in (sys.prefix, p['purelib'], p['scripts'])); print(sys.prefix if ok else '')" 2>/dev/null)
ENV     := $(or $(ACTIVE),.venv)
BIN     := $(ENV)/bin
READY   := $(ENV)/.wentu-ready
PINS    := $(if $(ACTIVE),,-c constraints.txt)
SEED    ?= 0
# Of the images: which, their tag, what is said to the builder, and by which program.
IMAGES  ?= cpu gpu serve
TAG     ?= $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' wentu/__init__.py)
BUILD_ARGS ?=
DOCKER  ?= docker
# Two files at a time, each with half of the cores: much of a test uses one core only, and what the
# tests of a file share is made once.
PYTEST  := OMP_NUM_THREADS=$(shell expr \( $$(nproc) + 1 \) / 2) $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: help setup demo test check proofs exhaustive images containers compile bench manifests clean
help:  ## what can be made
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

setup: $(READY)  ## the environment alone
$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || { echo "making $(ENV)"; $(BASE) -m venv $(ENV); }
	@echo "installing into $(ENV); about 3 minutes the first time"
	@LMDB_PURE=1 $(BIN)/python -m pip install --quiet $(PINS) -e '.[dev]'
	@touch $@

demo: $(READY)  ## draw pictures, run everything, search them
	@$(BIN)/wentu demo --seed $(SEED)

test: $(READY)  ## all tests but the long proofs; no network
	PYTHONWARNDEFAULTENCODING=1 $(PYTEST) -m 'not heavy and not exhaustive and not containers'

check: $(READY)  ## lint, types, layering, freshness of pipeline.yaml
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layering.py tests/test_pipeline.py tests/test_docs.py -k 'not can_be_done and not notebook_runs'

proofs: $(READY)  ## kills, races, real data, a demo: about 30 minutes on two cores
	$(PYTEST) -m heavy -rP --show-capture=stdout --durations=0

exhaustive: $(READY)  ## 10,000 damaged files for each reader, two more demos, naming, more memory: over an hour
	$(PYTEST) -m exhaustive

images:  ## container images; IMAGES="cpu serve", TAG=…, BUILD_ARGS=… (docs/images.md)
	@for name in $(IMAGES); do \
	    DOCKER="$(DOCKER)" BUILD_ARGS="$(BUILD_ARGS)" images/build $$name "$(TAG)" || exit 1; \
	done

containers: $(READY)  ## build cpu and serve and run the pipeline in them, where an engine answers
	@if $(DOCKER) version >/dev/null 2>&1; then \
	    $(MAKE) images IMAGES="cpu serve" \
	    && WENTU_TEST_IMAGES="$(TAG)" $(BIN)/python -m pytest -m containers -rs --durations=0 tests/containers; \
	else echo "containers: passed over, for no container engine answers"; fi

compile: $(READY)  ## pipelines/train.py -> pipeline.yaml
	$(BIN)/python -m pipelines.train pipeline.yaml

bench: $(READY)  ## side by side with cn_clip's own scripts
	$(BIN)/python -m benchmarks

manifests: $(READY)  ## infra/k8s/overlays -> build/manifests
	@mkdir -p build/manifests
	@for each in trial production; do \
	  $(BIN)/kubectl kustomize infra/k8s/overlays/$$each -o build/manifests/$$each.yaml || exit 1; \
	  echo build/manifests/$$each.yaml; done

clean:  ## the environment and caches
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis

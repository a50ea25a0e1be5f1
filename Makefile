# `make help` lists the commands.
# The first interpreter that fits pyproject.toml and can create virtual environments; PYTHON=... names another.
FITS := import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
PYTHON ?= $(shell for each in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$each -c '$(FITS)' 2>/dev/null && echo $$each && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.DEFAULT_GOAL := help
.PHONY: help setup dev lock browser demo test check services torture mutants hostile lint reference bench bench-parsing bench-network bench-kernel bench-captioning bench-tagger bench-shards bench-training bench-miniature bench-evaluation bench-prediction bench-rehearsal lavis-env

help: ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

setup: $(BIN)/.installed ## create .venv with the packages that runs need

dev: $(BIN)/.installed-dev ## setup, and everything for tests, lint and benchmarks

# It does not depend on `dev`, which can't install a package that constraints.txt lacks.
lock: ## write constraints.txt from pyproject.toml; versions that still fit stay (UPGRADE="-P numpy" or UPGRADE=-U upgrades one or all); needs make dev once
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-annotate --custom-compile-command "make lock" $(UPGRADE) \
		--extra dev --extra bench --extra server --extra workers --group install -o constraints.txt pyproject.toml

INSTALL := $(BIN)/pip install -q --disable-pip-version-check

$(BIN)/.installed-dev: $(BIN)/.installed
	$(INSTALL) -c constraints.txt 'rlip[dev]'
	@touch $@

# pip's new release comes first, since it reads the hashes of packages from constraints. Only torch and torchvision are installed
# without hashes, because pip may be configured for other builds of theirs, such as those for CPUs.
$(BIN)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(FITS)' 2>/dev/null || { echo "$(or $(PYTHON),python3) is not a Python 3.11 to 3.14 that can create \
	virtual environments. Install one (Debian: apt install python3 python3-venv), or name one: make setup PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	sed -n '/^pip==/,/[^\\]$$/p' constraints.txt | $(INSTALL) -r /dev/stdin
	$(INSTALL) --no-deps $$(grep -oE '^torch(vision)?==[^ ]+' constraints.txt)
	$(INSTALL) -q --no-deps --build-constraint constraints.txt -e .
	$(INSTALL) -c constraints.txt 'rlip[review,tensorboard]'
	@touch $@

# An installed Chrome works too, if its chromedriver is on the path.
browser: ## install the Chromium that tests of the review page drive (on Debian, as root; elsewhere it says what to install)
	@{ command -v chromium || command -v google-chrome; } >/dev/null && command -v chromedriver >/dev/null || \
	{ test "$$(id -u)" = 0 && command -v apt-get >/dev/null && export DEBIAN_FRONTEND=noninteractive && \
		apt-get update -qq && apt-get install -y -qq chromium chromium-driver >/dev/null; } || \
	{ echo "Chromium with chromedriver was neither found nor installed, so the browser tests of the review page can't run. \
	Install both, on Debian as root: apt-get install chromium chromium-driver"; test -z "$$RLIP_REQUIRE_BROWSER"; }

demo: setup ## run the whole chain on the synthetic world, then print the results and the report's path
	$(BIN)/rlip run demo

# A worker that crashes ends the run, which names its test. By default, pytest-xdist replaces it, and then waits forever.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart=0

# Tests start hundreds of Python processes, each of which would compile the project's modules anew.
test: export PYTHONDONTWRITEBYTECODE :=
test: dev browser services ## run every test and list the slowest
	$(PYTEST) --durations=20

check: export PYTHONDONTWRITEBYTECODE :=
check: dev ## before each commit: lint, types, imports, and all tests without a chain, training, browser or server
	@$(MAKE) -j2 --output-sync=target lint quick

.PHONY: quick
quick:
	$(PYTEST) -m 'not slow'

torture: dev ## kill and stop processes at random moments (STORE_KILLS=300 STOPS=30 KILLS=100); the bytes must stay the same: hours
	RLIP_STORE_KILLS=$(or $(STORE_KILLS),300) RLIP_STOPS=$(or $(STOPS),30) $(BIN)/python -m pytest tests/storage/test_torture.py -s
	RLIP_KILLS=$(or $(KILLS),100) $(BIN)/python -m pytest tests/chain tests/training/test_training.py -s -k 'random_moments or killed_again or on_s3'

mutants: dev ## mutation-test the store's code against its quick tests (MUTANTS="storage.disk*": some of them): hours
	$(BIN)/mutmut run $(MUTANTS)
	$(BIN)/mutmut results

hostile: dev ## feed the pipeline hostile input of every kind and print a table of the outcomes
	$(BIN)/python -m pytest tests/hostile -s

services: ## install Debian's PostgreSQL for the tests' Prefect server, which otherwise uses SQLite
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
		apt-get install -qq -y --no-install-recommends postgresql >/dev/null; } || echo "no PostgreSQL, so the tests' Prefect server uses SQLite: apt install postgresql"

lint: dev ## check style, types and import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

reference: dev ## write docs/api.md, docs/cli.md and docs/settings.md from the code
	$(BIN)/python docs/reference.py

bench: bench-parsing bench-network bench-kernel bench-captioning bench-tagger bench-evaluation bench-prediction bench-shards bench-training ## measure speed and memory beside peers, as a table and as JSON
	@for script in captioner onnx_export review_keyboard store; do $(BIN)/python -m benchmarks.$$script || exit 1; done

RLIP_SHARED ?= ../shared
CSV ?= $(RLIP_SHARED)/data/factual/dev.csv

bench-parsing: dev ## measure the parser: FACTUAL's graphs, documents, V-COCO's interactions, speed
	$(BIN)/python -m benchmarks.parsing graphs $(CSV)
	$(BIN)/python -m benchmarks.parsing documents
	$(BIN)/python -m benchmarks.parsing interactions $(RLIP_SHARED)/data/coco/annotations \
		--dictionary $(RLIP_SHARED)/data/rlipv2_priors/hico_obj_paraphrase.json
	$(BIN)/python -m benchmarks.parsing implied $(RLIP_SHARED)/data/vcoco/instances_vcoco_train.json \
		--without $(RLIP_SHARED)/data/coco/annotations/vcoco_relations_sample2017.json
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.parsing speed $(RLIP_SHARED)/data/blip_captions/BLIP_nucleus_ViT-L.json

bench-network: dev ## measure the networks' speed, memory and precision, about ten minutes (AUTHORS=FILE: compared with the authors' figures)
	$(BIN)/python -m benchmarks.network --json out/bench-network.json $(if $(AUTHORS),--authors $(AUTHORS))

bench-kernel: dev ## compile the GPU kernels of deformable attention: spills, minimum time on paper
	$(BIN)/python -m benchmarks.kernel --json out/bench-kernel.json

bench-captioning: dev ## measure captioning compared with transformers and (after lavis-env) LAVIS, about ten minutes
	$(BIN)/python -m benchmarks.captioning --json out/bench-captioning.json

bench-tagger: dev ## measure labelling compared with the authors' procedure on the same weights and images, about ten minutes
	$(BIN)/python -m benchmarks.labelling --json out/bench-tagger.json

bench-evaluation: dev ## measure HICO-DET's metric at full size compared with a plain loop
	$(BIN)/python -m benchmarks.evaluation --json out/bench-evaluation.json

bench-prediction: dev ## measure the memory of rlip predict, by network and by number of images
	$(BIN)/python -m benchmarks.prediction --json out/bench-prediction.json

bench-shards: dev ## measure shards and streams compared with webdataset, litdata, spdl and grain, about five minutes
	RLIP_SHARED=$(RLIP_SHARED) $(BIN)/python -m benchmarks.shards --json out/bench-shards.json

bench-training: dev ## measure training: data wait, checkpoints, overhead and ranks
	$(BIN)/python -m benchmarks.training --json out/bench-training.json

bench-miniature: dev ## test the paper's claims on scenes that need pixels: fusion, source and amount of labels; two CPU-hours, resumable
	$(BIN)/python -m benchmarks.miniature --json out/bench-miniature.json

bench-rehearsal: dev ## rehearse the whole chain at scale without networks: half an hour (IMAGES=1820000: hours)
	$(BIN)/python -m benchmarks.rehearsal $(if $(IMAGES),--images $(IMAGES)) --json out/bench-rehearsal.json

LAVIS := .lavis
LAVIS_PYTHON ?= $(shell for each in python3 python3.11; do \
	$$each -c 'import sys, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && echo $$each && break; done)

lavis-env: $(LAVIS)/.installed ## create .lavis, the environment of captioner "lavis" (Python 3.11: LAVIS_PYTHON)

$(LAVIS)/.installed: requirements-lavis.txt
	@test -n "$(LAVIS_PYTHON)" && $(LAVIS_PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "$(or $(LAVIS_PYTHON),python3) is not Python 3.11, and LAVIS's libraries have no wheels for others: make lavis-env LAVIS_PYTHON=python3.11"; exit 1; }
	$(LAVIS_PYTHON) -m venv $(LAVIS)
	grep -v '^salesforce-lavis' $< > $(LAVIS)/requirements.txt
	$(LAVIS)/bin/pip install -q --disable-pip-version-check -r $(LAVIS)/requirements.txt
	$(LAVIS)/bin/pip install -q --disable-pip-version-check --no-deps $$(grep '^salesforce-lavis' $<)
	@touch $@

# One word a command; `make help` lists them.
# The first interpreter that fits pyproject.toml and can make virtual environments; PYTHON=... names another.
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

setup: $(BIN)/.installed ## create .venv and install what runs need

dev: $(BIN)/.installed-dev ## also install what tests, lint and benchmarks need

# Without `dev`, which can't install a package that constraints.txt doesn't have yet.
lock: ## write constraints.txt from pyproject.toml; versions that fit stay (UPGRADE="-P numpy": but numpy's; UPGRADE=-U: none); needs make dev once
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-annotate --custom-compile-command "make lock" $(UPGRADE) \
		--extra dev --extra bench --extra server --extra workers --group install -o constraints.txt pyproject.toml

INSTALL := $(BIN)/pip install -q --disable-pip-version-check

$(BIN)/.installed-dev: $(BIN)/.installed
	$(INSTALL) -c constraints.txt 'rlip[dev]'
	@touch $@

# pip's new release comes first: it takes the hashes of packages from constraints. torch and torchvision alone are installed without
# one, because pip may be set to take other builds of theirs, such as those for CPUs.
$(BIN)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(FITS)' 2>/dev/null || { echo "$(or $(PYTHON),python3) is no Python 3.11 to 3.14 that can make \
	virtual environments. Install one (Debian: apt install python3 python3-venv), or name one: make setup PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	sed -n '/^pip==/,/[^\\]$$/p' constraints.txt | $(INSTALL) -r /dev/stdin
	$(INSTALL) --no-deps $$(grep -oE '^torch(vision)?==[^ ]+' constraints.txt)
	$(INSTALL) -q --no-deps --build-constraint constraints.txt -e .
	$(INSTALL) -c constraints.txt 'rlip[review,tensorboard]'
	@touch $@

# Chrome of another distribution will do, if its chromedriver is on the path.
browser: ## install the Chromium that tests of the review page drive (on Debian, as root); elsewhere, say what to install
	@{ command -v chromium || command -v google-chrome; } >/dev/null && command -v chromedriver >/dev/null || \
	{ test "$$(id -u)" = 0 && command -v apt-get >/dev/null && export DEBIAN_FRONTEND=noninteractive && \
		apt-get update -qq && apt-get install -y -qq chromium chromium-driver >/dev/null; } || \
	{ echo "No Chromium with chromedriver was found or could be installed, so the browser tests of the review page can't run. \
	Install both, on Debian as root: apt-get install chromium chromium-driver"; test -z "$$RLIP_REQUIRE_BROWSER"; }

demo: setup ## run the whole chain on the synthetic world; ends with figures and the report's path
	$(BIN)/rlip run demo

# Tests start hundreds of Python processes, each of which would compile the project's modules anew.
test: export PYTHONDONTWRITEBYTECODE :=
test: dev browser services ## run every test; names the slowest
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=20

check: export PYTHONDONTWRITEBYTECODE :=
check: lint ## before each commit: lint, types, imports, and the tests that need no chain, training, browser or server
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow'

torture: dev ## kill processes on a store (STORE_KILLS, 300; STOPS, 30), the chain and a training (KILLS, 100; a fifth as many hosts): the bytes must be the same
	RLIP_STORE_KILLS=$(or $(STORE_KILLS),300) RLIP_STOPS=$(or $(STOPS),30) $(BIN)/python -m pytest tests/storage/test_torture.py -s
	RLIP_KILLS=$(or $(KILLS),100) $(BIN)/python -m pytest tests/chain tests/training/test_training.py -s -k 'random_moments or crash_point or on_s3'

mutants: dev ## change the store's code in thousands of small ways; the quick tests of tests/storage must notice (hours; MUTANTS="storage.disk*": some)
	$(BIN)/mutmut run $(MUTANTS)
	$(BIN)/mutmut results

hostile: dev ## feed the pipeline hostile input of every kind; prints case and outcome as a table
	$(BIN)/python -m pytest tests/hostile -s

services: ## install Debian's PostgreSQL, on which one test runs a Prefect server; without it, that test is skipped
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
		apt-get install -qq -y --no-install-recommends postgresql >/dev/null; } || echo "no PostgreSQL: apt install postgresql, or skip its test"

lint: dev ## style, types and import arrows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

reference: dev ## write docs/cli.md and docs/settings.md from the code
	$(BIN)/python docs/reference.py

bench: dev ## speed and memory, side by side, as a table and as JSON
	@for script in $(filter-out benchmarks/miniature.py benchmarks/rehearsal.py, $(shell grep -l "run(options" benchmarks/*.py)); do $(BIN)/python -m benchmarks.$$(basename $$script .py) || exit 1; done

RLIP_SHARED ?= ../shared
CSV ?= $(RLIP_SHARED)/data/factual/dev.csv

bench-parsing: dev ## how well captions are read: FACTUAL's graphs, V-COCO's interactions, speed
	$(BIN)/python -m benchmarks.parsing $(CSV)
	$(BIN)/python -m benchmarks.interactions $(RLIP_SHARED)/data/coco/annotations \
		--dictionary $(RLIP_SHARED)/data/rlipv2_priors/hico_obj_paraphrase.json \
		--more $(RLIP_SHARED)/data/blip_captions/BLIP_nucleus_ViT-L.json $(RLIP_SHARED)/data/vcoco/instances_vcoco_train.json
	$(BIN)/python -m benchmarks.implications $(RLIP_SHARED)/data/vcoco/instances_vcoco_train.json \
		--without $(RLIP_SHARED)/data/coco/annotations/vcoco_relations_sample2017.json
	$(BIN)/python -m benchmarks.parsing_speed $(RLIP_SHARED)/data/blip_captions/BLIP_nucleus_ViT-L.json

bench-network: dev ## speed, memory and precision of the networks, about ten minutes; AUTHORS=FILE: beside the authors' code on this machine
	$(BIN)/python -m benchmarks.network --json out/bench-network.json $(if $(AUTHORS),--authors $(AUTHORS))

bench-kernel: dev ## deformable attention's kernels for GPUs: registers and spills, the least time on paper; on a GPU, times
	$(BIN)/python -m benchmarks.kernel --json out/bench-kernel.json

bench-captioning: dev ## CPU-seconds of captioning beside transformers and (after lavis-env) LAVIS, about ten minutes
	$(BIN)/python -m benchmarks.captioning --json out/bench-captioning.json

bench-tagger: dev ## labelling beside the authors' procedure on the same weights and images, about ten minutes
	$(BIN)/python -m benchmarks.labelling --json out/bench-tagger.json

bench-evaluation: dev ## the metrics at full size beside a plain loop, about two minutes
	$(BIN)/python -m benchmarks.evaluation --json out/bench-evaluation.json

bench-prediction: dev ## images a second of rlip predict, and its memory by number of images, about ten minutes
	$(BIN)/python -m benchmarks.prediction --json out/bench-prediction.json

bench-shards: dev ## shards and streams beside webdataset, litdata, spdl and grain, about five minutes
	RLIP_SHARED=$(RLIP_SHARED) $(BIN)/python -m benchmarks.shards --json out/bench-shards.json

bench-training: dev ## trainings: waiting, overhead, ranks, memory and restarts, about twenty minutes
	RLIP_SHARED=$(RLIP_SHARED) $(BIN)/python -m benchmarks.training --json out/bench-training.json

bench-miniature: dev ## the paper's claims on synthetic scenes: fusion, amount and source of labels; about one CPU-hour, goes on where it was
	$(BIN)/python -m benchmarks.miniature --json out/bench-miniature.json

bench-rehearsal: dev ## the whole chain at scale without networks: time, memory, Prefect's records; half an hour, IMAGES=1820000 hours
	$(BIN)/python -m benchmarks.rehearsal $(if $(IMAGES),--images $(IMAGES)) --json out/bench-rehearsal.json

LAVIS := .lavis
LAVIS_PYTHON ?= $(shell for each in python3 python3.11 python3.10; do \
	$$each -c 'import sys, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 10), (3, 11)))' 2>/dev/null && echo $$each && break; done)

lavis-env: $(LAVIS)/.installed ## create .lavis, the environment of captioner "lavis" (Python 3.10 or 3.11: LAVIS_PYTHON)

$(LAVIS)/.installed: requirements-lavis.txt
	@test -n "$(LAVIS_PYTHON)" && $(LAVIS_PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 10), (3, 11)))' || \
		{ echo "$(or $(LAVIS_PYTHON),python3) is neither Python 3.10 nor 3.11, and LAVIS's libraries have no wheels for others: make lavis-env LAVIS_PYTHON=python3.11"; exit 1; }
	$(LAVIS_PYTHON) -m venv $(LAVIS)
	grep -v '^salesforce-lavis' $< > $(LAVIS)/requirements.txt
	$(LAVIS)/bin/pip install -q --disable-pip-version-check -r $(LAVIS)/requirements.txt
	$(LAVIS)/bin/pip install -q --disable-pip-version-check --no-deps $$(grep '^salesforce-lavis' $<)
	@touch $@

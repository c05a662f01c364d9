# Every target makes its own virtual environment in .venv, with the versions of constraints.txt.
TORCH := 2.13.0
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PLUGINS := $(wildcard plugins/*/pyproject.toml)
TYPED := $(wildcard rlhf_plugins benchmarks pytest_rlhf_plugins.py plugins/*/rlhf_*)

# Some containers set it. Every process would compile torch, transformers and our own modules again: 10 s each.
unexport PYTHONDONTWRITEBYTECODE

# A process for each core, at most 8: each takes 1 GB of memory and imports all libraries.
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
WORKERS ?= $(shell echo $$(($(CORES) < 8 ? $(CORES) : 8)))
CHOSEN = $(if $(findstring /,$(K)),'$(K)',--about '$(K)')

# An interpreter named here or on the command line (make PYTHON=...) is tried first.
PYTHON ?= python3
FIND_PYTHON = for python in $(PYTHON) python3.13 python3.12 python3.11; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
	python=; \
	done; \
	test -n "$$python" || { \
	echo "No Python >= 3.11 with its venv module was found (tried: $(PYTHON) python3.13 python3.12 python3.11)." >&2; \
	echo "Install one (Debian, Ubuntu: python3.11 and python3.11-venv), or say: make PYTHON=/path/to/python" >&2; \
	exit 1; }

.PHONY: help quickstart test lint docs site bench bench-pages bench-speed bench-suites bench-people audit compat constraints clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

quickstart: $(READY)  ## run recipes/quickstart.yaml: a table, and runs/quickstart/report.html
	$(BIN)/rlhf run recipes/quickstart.yaml $(if $(wildcard runs/quickstart/status.json),--resume)

# K is a path, or a word: the kind, the name or the file of what was changed.
test: $(READY)  ## run the tests, but for the slow ones; with K=reward_loss, only those of the reward losses
	$(BIN)/python -m pytest -m "not slow" $(if $(K),$(CHOSEN),--numprocesses $(WORKERS) --dist worksteal)

lint: $(READY)  ## ruff check, ruff format --check, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPY_NUM_WORKERS=$(WORKERS) $(BIN)/mypy $(TYPED)

docs: $(READY)  ## write docs/components/, docs/api.md and docs/recipe.schema.json, the JSON schema of recipes
	$(BIN)/python docs/write.py
	mkdir -p docs
	$(BIN)/rlhf schema > docs/recipe.schema.json.new
	mv docs/recipe.schema.json.new docs/recipe.schema.json

# In an environment of its own, since it needs nothing else of ours.
site:  ## build the documentation into build/site; fails for a page, a link or a heading that is not there
	@$(FIND_PYTHON); set -e; $$python -m venv build/mkdocs
	build/mkdocs/bin/python -m pip install --quiet '$(shell sed -n 's/^docs = \["\(.*\)"\]$$/\1/p' pyproject.toml)'
	NO_MKDOCS_2_WARNING=1 build/mkdocs/bin/mkdocs build --strict --quiet --site-dir build/site

# docs/benchmarks/README.md names the target of each page. What was interrupted goes on, but for the slow tests.
bench: $(READY)  ## run the slow tests, then bench-pages, bench-speed and bench-suites (a day or more)
	$(BIN)/python -m pytest -m slow
	$(MAKE) bench-pages bench-speed bench-suites

bench-pages: $(READY)  ## run the scripts of docs/benchmarks that need no GPU and no data of people (many hours)
	$(BIN)/python benchmarks/five_seeds.py
	$(BIN)/python benchmarks/reward_sandbox.py
	$(BIN)/python benchmarks/reward_unit.py
	$(BIN)/python benchmarks/online.py
	$(BIN)/python benchmarks/critics.py
	$(BIN)/python benchmarks/best_of_n.py
	$(BIN)/python benchmarks/certificates.py --seeds 5
	$(BIN)/python benchmarks/conversations.py --seeds 5
	$(BIN)/python benchmarks/guards_cost.py
	$(BIN)/python benchmarks/label_errors.py
	$(BIN)/python benchmarks/ppo_speed.py
	$(BIN)/python benchmarks/token_rewards.py --seeds 5 --steps 24
	$(BIN)/python plugins/rlhf-continual/bench/online_against_offline.py --seeds 5 --arms offline spread online
	$(BIN)/python plugins/rlhf-robust/bench/spurious.py --seeds 8
	$(BIN)/python plugins/rlhf-transfer/bench/transfer.py --seeds 5 --students 5
	$(BIN)/python plugins/rlhf-watch/benchmarks/probes.py --seeds 5
	$(BIN)/python plugins/rlhf-watch/benchmarks/alarms.py --clean 300 --fresh 100 --seed 0
	$(BIN)/python plugins/rlhf-watch/benchmarks/gap_variants.py --clean 300 --hacked 100 --seed 0
	$(BIN)/python plugins/rlhf-watch/benchmarks/trained_alarms.py --clean 7 --hacked 14
	$(BIN)/python -m rlhf_bench.trained runs/trained.json runs/trained
	cp runs/trained.json docs/benchmarks/trained.json
	$(BIN)/python -m rlhf_bench.facts docs/benchmarks

SUITES := three_ways more_ways strengths overfit stability frontier over_optimisation ensembles hybrids more_hybrids
bench-suites: $(READY)  ## run the suites of rlhf-bench, then write docs/benchmarks/suite_*, which_algorithm.md, selection.md and facts.md (17 hours and more)
	set -e; for suite in $(SUITES); do \
	  $(BIN)/rlhf bench $$suite; \
	  for end in md json; do cp runs/bench/$$suite/bench.$$end docs/benchmarks/suite_$$suite.$$end; done; done
	$(BIN)/rlhf bench selection
	$(BIN)/python -m rlhf_bench.bandits runs/bench/bandits.json runs/bench/bandits
	cp runs/bench/bandits.json docs/benchmarks/bandits.json
	$(BIN)/python -m rlhf_bench.study docs/benchmarks/selection.md runs/bench plugins/rlhf-bench/rlhf_bench/history.json
	$(BIN)/python -m rlhf_bench.guide docs/benchmarks docs/benchmarks/which_algorithm.md
	$(BIN)/python -m rlhf_bench.facts docs/benchmarks

bench-speed: $(READY)  ## time our trainers beside stock TRL: docs/benchmarks/speed.md (half an hour)
	$(BIN)/python benchmarks/speed.py

DATA = $(error say where the files are: make bench-people DATA=FOLDER)
bench-people: $(READY)  ## measure on people's rows, which are not in the repository: DATA=FOLDER with their files
	$(BIN)/python benchmarks/people.py dialogues_harmless_pairs=$(DATA)/dialogues_harmless_pairs.jsonl.gz
	$(BIN)/python benchmarks/people_suite.py $(DATA)/dialogues_harmless_pairs.jsonl.gz
	$(BIN)/python benchmarks/people_parts.py $(DATA)
	$(BIN)/python benchmarks/reward_arguments.py $(DATA)/arguments_pairs.jsonl.gz

# It needs a network: the list of known vulnerabilities is not on this machine.
audit: $(READY)  ## look the pinned versions up in the list of known vulnerabilities; a line where it cannot be reached
	@$(FIND_PYTHON); set -e; $$python -m venv build/audit; \
	build/audit/bin/python -m pip install --quiet pip-audit && \
	build/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --progress-spinner off --timeout 20 \
	  > build/audit.txt 2>&1 || { \
	  grep -Eqi "connection|resolve|timed out|proxy" build/audit.txt || { cat build/audit.txt; exit 1; }; \
	  echo "skipped: the list of known vulnerabilities cannot be reached here"; }

# LIB is one library or several; each version is tested alone in an environment under build/compat.
compat: $(READY)  ## test the seams with the oldest and the newest version of each library; LIB=trl for one
	$(BIN)/python benchmarks/compat.py $(LIB)

# Of 16,000 files of Python most are never imported: each is compiled when it is.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt

# torch first: the one large download fails or succeeds before anything else is fetched.
$(READY): pyproject.toml constraints.txt $(PLUGINS)
	@$(FIND_PYTHON); set -ex; $$python -m venv $(VENV)
	$(INSTALL) torch
	$(INSTALL) --editable '.[dev]'
	$(INSTALL) --no-build-isolation $(PLUGINS:%/pyproject.toml=--editable ./%)
	@touch $@

constraints:  ## write constraints.txt again: the newest versions that pyproject.toml allows
	rm -rf build/constraints
	@$(FIND_PYTHON); set -ex; $$python -m venv build/constraints
	build/constraints/bin/python -m pip install --quiet torch==$(TORCH) '.[dev]' $(PLUGINS:%/pyproject.toml=./%)
	{ sed -n '/^#/p' constraints.txt; \
	  build/constraints/bin/python -m pip list --format=freeze | grep -Eiv '^(pip|rlhf-[a-z-]+)==' \
	  | sed 's/+[a-z0-9.]*$$//' | LC_ALL=C sort -f; } > build/constraints.txt
	mv build/constraints.txt constraints.txt
	rm -rf build/constraints

clean:  ## remove .venv, build output and caches; runs/ stays
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

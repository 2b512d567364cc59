# Needs only Python 3.11 and make; everything else is installed into .venv from the hash-pinned lock.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= 2

.PHONY: demo test check bench validate exchange scan-recall drill-recall docs site readme mixed scale scale-example peers lock clean

$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $(STAMP)

demo: $(STAMP)  ## run the shipped study and say where the report is
	$(BIN)/offramp assess examples/leave-h20/study.toml --out demo-report

test: $(STAMP)  ## every test; says which were left out and why
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -rs

check: $(STAMP)  ## format, lint, types, layers, fast tests
	$(BIN)/ruff format --check src tests bench tools
	$(BIN)/ruff check src tests bench tools
	$(BIN)/basedpyright
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow and not root"

bench: $(STAMP)  ## timings (never part of the tests)
	$(BIN)/python -m pytest bench --benchmark-only -p no:xdist

drill-recall: $(STAMP)  ## drill every planted class and build ten times; writes docs/drill-recall.md (root, gcc)
	$(BIN)/python bench/drill_recall.py --count 10 --out docs/drill-recall.md

scan-recall: $(STAMP)  ## recall of the scan on real ports into docs/recall.md; CLONES=<folder with clones>
	@test -n "$(CLONES)" || { echo 'Say where the clones are: make scan-recall CLONES=<folder>'; exit 2; }
	$(BIN)/python bench/scan_recall.py $(CLONES)

exchange: $(STAMP)  ## exchange rates of the national study from the present parameters, then docs/national.md (minutes)
	$(BIN)/python tools/make_exchange.py
	$(BIN)/python tools/make_national.py

docs: $(STAMP)  ## what comes from the code: docs/study.md, docs/commands.md, docs/errors.md, docs/schema
	$(BIN)/python tools/make_reference.py
	$(BIN)/python tools/make_errors.py

site: $(STAMP)  ## the documentation as a site that opens offline: site/index.html
	$(BIN)/mkdocs build -q --strict

readme: $(STAMP)  ## what the README shows of the example, picture included
	$(BIN)/python tools/make_readme.py

mixed: $(STAMP)  ## the worked example of mixed pools in docs/mixed.md, from a run of the example study
	$(BIN)/python tools/make_mixed.py

scale: $(STAMP)  ## measured growth with requests, replicas, layouts and scenarios into docs/scale.md (about ten minutes)
	$(BIN)/python bench/scale.py --most 100000000

scale-example: $(STAMP)  ## the shipped example alone, cold and edited, into docs/scale.md (a minute; on an idle machine)
	$(BIN)/python bench/scale.py --example

peers: $(STAMP)  ## the same job on a public peer into bench/peers.md; PEER=<python of an environment with aiconfigurator 0.12.0>
	@test -n "$(PEER)" || { echo 'Say where the peer is: make peers PEER=<its python>'; exit 2; }
	$(BIN)/python bench/peers.py $(PEER)

lock:  ## renew requirements.lock (needs uv)
	uv pip compile -q --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 \
	  --all-extras --group dev pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) demo-report .pytest_cache .hypothesis

ROWS ?= src/offramp/data/validation/rows.csv.gz
validate: $(STAMP)  ## refit, cross-validate, write docs/validation.md (ROWS=file in the serving schema)
	$(BIN)/python tools/make_validation.py $(ROWS)

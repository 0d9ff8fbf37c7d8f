# Each target does its own set-up in .venv, and is quick the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Apart from the rest: it needs setproctitle, with which Celery would give its processes other names.
MUTMUT := $(CURDIR)/$(VENV)/mutmut

CHAOS_ARGS ?= --seed 1
# Backtests at once, each with its part of the cores.
JOBS ?= 2

.PHONY: demo test coverage mutation lint secure chaos fuzz audit lock bench bench-full bench-quality bench-quality-full install clean

demo: $(STAMP)
	$(BIN)/datashunt demo --out demo

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --dist loadgroup $(PYTEST_ARGS)

coverage: $(STAMP)
	$(BIN)/python -m tests.measures.coverage -n auto --dist loadgroup $(PYTEST_ARGS)

mutation: $(STAMP)
	@test -d $(MUTMUT) || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --target $(MUTMUT) mutmut
	@# by itself it would try again only what has changed
	rm -rf mutants
	PYTHONPATH=$(MUTMUT) OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m tests.measures.mutation

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

chaos: $(STAMP)
	$(BIN)/python -m tests.acceptance.faults $(CHAOS_ARGS)

secure: $(STAMP)
	$(BIN)/bandit -q -c pyproject.toml -ll -r datashunt workers migrations
	@# of a copy: it writes lines that have moved into the baseline, and says so with a code of 3
	@cp .secrets.baseline $(VENV)/secrets.json
	$(BIN)/detect-secrets-hook --baseline $(VENV)/secrets.json $$(git ls-files ':!.secrets.baseline') || [ $$? -eq 3 ]

audit: $(STAMP)
	@# strict: a package of which the service says nothing was not audited, and that is no success
	@$(BIN)/pip-audit --strict --no-deps --disable-pip -r constraints.txt $(AUDIT_ARGS) || \
		{ echo 'make audit: vulnerabilities were found, or the service that knows them did not answer (see above).' \
		'By default it is PyPI itself. Another one: make audit AUDIT_ARGS="-s osv"' >&2; exit 1; }

lock: $(STAMP)
	$(BIN)/python docker/lock.py

fuzz: $(STAMP)
	DATASHUNT_BROKER_URL=memory:// $(BIN)/python -m tests.fuzz $(FUZZ_ARGS)

bench: $(STAMP)
	$(BIN)/python -m benchmarks

bench-quality: $(STAMP)
	$(BIN)/python -m benchmarks.quality --jobs $(JOBS)

bench-quality-full: $(STAMP)
	$(BIN)/python -m benchmarks.quality --full --jobs $(JOBS)

bench-full: $(STAMP)
	$(BIN)/python -m benchmarks --full

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'datashunt needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)' >&2; exit 2; }
	@echo 'Setting up $(VENV) (about two minutes, once) …'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ echo 'no venv: install the package python3-venv' >&2; exit 2; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip==26.2'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage* mutants

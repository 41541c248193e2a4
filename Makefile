# Two commands do all set-up: `make demo` and `make test`. Everything is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := src tests benchmarks experiments examples

.PHONY: install demo test faults test-data check format bench clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt tests/oracles.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "goldiprox needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement tests/oracles.txt
	touch $@

demo: install
	$(BIN)/goldiprox compare digits --label-noise 0.1 --duplicate 5 --epochs 10 --seeds 3 --out demo
	@echo "Open the report in a browser: file://$(CURDIR)/demo/report.html"

test: install
	$(BIN)/python -m pytest -n 2

# Tests on real data sets; each is skipped, with its reason, where the data are absent.
test-data: install
	$(BIN)/python -m pytest -m data -rs

# The long form of the fault campaign, some half an hour; run again, it goes on from its diary.
faults: install
	$(BIN)/python tests/faults/campaign --diary faults.jsonl

check: install
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/unit/test_docs.py

format: install
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

bench: install
	failed=0; for benchmark in benchmarks/[a-z]*.py; do \
		echo "== $$benchmark"; $(BIN)/python $$benchmark || failed=1; \
	done; exit $$failed

clean:
	rm -rf .venv demo runs build dist

# Every target makes the environment itself when it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Without a GPU, hold torch to the version whose CPU build is meant; with one, take what pip finds.
CONSTRAINTS := $(shell nvidia-smi -L >/dev/null 2>&1 || echo "-c constraints-cpu.txt")

.PHONY: setup demo reproduce test lint format bench docs kernels-check clean

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints-cpu.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e '.[dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/statemix demo

# All claims of the paper at the smallest budget: minutes on two cores.
reproduce: OUT ?= reproduce/minutes
reproduce: $(INSTALLED)
	$(BIN)/statemix reproduce --budget minutes --out $(OUT)

# Two at once, on as many cores: most tests keep one busy.
test: WORKERS ?= 2
test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(WORKERS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)
	$(BIN)/statemix bench op

kernels-check: $(INSTALLED)
	$(BIN)/python -m statemix.kernels.cuda.check

docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e '.[docs]'
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site dist

# Everything a checkout needs: Python 3.11 or newer, make and git. All of it happens in .venv.

# Threads of torch that wait must sleep: spinning, they take the cores from whoever has work to do.
export OMP_WAIT_POLICY ?= PASSIVE

PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
PIP = $(BIN)/python -m pip --disable-pip-version-check
# The packages laid out as they are installed, for tools that read paths and run no import hook.
TREE = build/tree
# Processes that tests run in; 0 runs them in one, as a debugger wants it.
WORKERS ?= 2
PYTEST = $(BIN)/pytest -n $(WORKERS)

.PHONY: help setup demo test test-all kernels lint style types layers spelling clean

help:
	@echo "make setup     create $(VENV) and install taskloom into it, once"
	@echo "make demo      build, train and evaluate the three tasks of examples/demo.py"
	@echo "make test      run the fast tests"
	@echo "make test-all  run the slow tests too"
	@echo "make kernels   compile the kernels for GPUs and compare them with the table"
	@echo "make lint      check style, types, layers and spelling"
	@echo "make clean     remove $(VENV) and all that was built"

setup: $(STAMP)

demo: setup
	$(BIN)/python examples/demo.py

test: setup
	$(PYTEST) -m "not slow"

test-all: setup
	$(PYTEST)

kernels: setup
	$(BIN)/python bench/device_kernels.py

lint: style types layers spelling

style: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: setup $(TREE)
	$(BIN)/pyright --pythonpath $(BIN)/python --warnings

layers: setup $(TREE)
	PYTHONPATH=$(TREE) $(BIN)/lint-imports

spelling: setup
	$(BIN)/typos

clean:
	rm -rf $(VENV) build dist demo *.egg-info
	rm -rf .pytest_cache .hypothesis .ruff_cache .import_linter_cache

# The stamp holds the folder it was made in: an environment does not survive being moved or copied.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "taskloom needs Python 3.11 or newer; $(PYTHON) is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@test "$$(cat $@ 2>/dev/null)" = "$(CURDIR)" && $(BIN)/python -c 'import pip' || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) install -qq -c constraints.txt 'pip>=25.1' setuptools
	$(PIP) install -qq -c constraints.txt torch
	$(PIP) install -qq -c constraints.txt --no-build-isolation --group dev -e '.[cluster,demo,etl,mlflow,remote,tensorboard,wandb]'
	@echo "$(CURDIR)" > $@

$(TREE): Makefile
	@rm -rf $@ && mkdir -p $@/taskloom
	@for package in graph ops pipeline storage; do ln -s "../../../$$package" $@/taskloom/; done
	@touch $@

# Two commands are all the set-up there is: `make demo` and `make test`.
VENV ?= .venv
# The PyTorch to install: name another one to keep it, e.g. make demo TORCH="torch --index-url URL-FROM-PYTORCH.ORG".
TORCH ?= $(shell grep '^torch==' constraints.txt)
BUNDLE ?= nl_ran_ct_classification
# Processes that the tests are shared out to; each wants a core and 2 GB.
WORKERS ?= 2
BIN := $(VENV)/bin
FIND_PYTHON = for p in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
	  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done

.PHONY: demo test lint wheel clean help

help:  ## Say what the commands do.
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/'

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	@python=$$($(FIND_PYTHON)); \
	  test -n "$$python" || { echo "error: no Python 3.11, 3.12 or 3.13 found; install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 2; }; \
	  test -x $(BIN)/python || "$$python" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed $(TORCH)
	@# Everything else as pinned, beside the PyTorch that is there now, whichever it is.
	@grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	@$(BIN)/python -m pip list --format=freeze 2>/dev/null | grep '^torch==' >> $(VENV)/constraints.txt
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt --editable ".[test]"
	@touch $@

demo: $(VENV)/.installed  ## Install, make a sample study, read it; prints where the report lies.
	@test -d demo/sample_ncp || $(BIN)/pneumonai phantom --kind ncp --seed 11 --format dicom --output demo
	$(BIN)/pneumonai predict demo/sample_ncp --bundle $(BUNDLE) --output demo/answers

test: $(VENV)/.installed  ## Install, run all tests.
	@# SWIG (in ITK) warns when the interpreter ends, after the summary, which is to be the last line.
	@# A file's tests stay in one process, which its fixtures are made for; layers as small as theirs want one thread.
	PYTHONWARNINGS="ignore:builtin type swigvarlink:DeprecationWarning" OMP_NUM_THREADS=1 \
	  $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile $(PYTEST)

lint: $(VENV)/.installed  ## ruff, and mypy on a normal (not editable) install.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/mypy && $(BIN)/python -m pip install --quiet --no-deps --target build/mypy .
	cd build && MYPYPATH=mypy ../$(BIN)/mypy --config-file ../pyproject.toml --namespace-packages -p pneumonai

wheel: $(VENV)/.installed  ## Build the wheel into dist/.
	rm -rf dist build/lib build/bdist*
	$(BIN)/python -m build --quiet --wheel --outdir dist .

clean:  ## Remove what the commands made (weights and runs/ stay).
	rm -rf $(VENV) build dist demo *.egg-info

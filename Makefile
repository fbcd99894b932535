# Everything here needs Python >= 3.11 and make. `make` alone lists the targets.
#
# The first target that needs it makes .venv and installs lstmbridge there, with the versions of constraints.txt; after
# that it is left alone until pyproject.toml or constraints.txt changes. `make PYTHON=python3.12 demo` picks the Python.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --progress-bar off -c constraints.txt
PYTEST := $(BIN)/python -m pytest
WORKERS ?= 2
DEVICE ?= cpu

export TF_CPP_MIN_LOG_LEVEL ?= 3
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-cluster check conformance bench docs clean

help: ## list these targets
	@echo "lstmbridge: what make can do"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1 \2/p' Makefile | while read -r name text; do printf '  make %-13s %s\n' "$$name" "$$text"; done

demo: $(VENV)/.demo ## a trained Keras model to PyTorch and ONNX and back, checked on all sides
	@echo "==> demo"
	@$(BIN)/python examples/demo.py

test: check ## make check, then every test and the quick conformance set
	@echo "==> pytest: tests and the quick conformance set, $(WORKERS) at a time"
	@$(PYTEST) -n $(WORKERS) -m "not slow and not cluster"

test-cluster: $(VENV)/.test ## migration jobs on real Dask and Ray clusters, whose workers are killed
	@echo "==> pytest: jobs on Dask and Ray"
	@$(PYTEST) -q -m cluster tests/test_cluster.py

check: $(VENV)/.test ## ruff, mypy --strict, and who imports whom
	@echo "==> ruff"
	@$(BIN)/ruff check .
	@echo "==> mypy --strict"
	@$(BIN)/mypy
	@echo "==> architecture"
	@$(PYTEST) -q tests/test_architecture.py

conformance: $(VENV)/.test ## every case on every backend, and its report; DEVICE=cuda on a GPU, FULL=0.001 for subsets
	@$(BIN)/python conformance/run.py --device $(DEVICE) --workers $(WORKERS) $(if $(FULL),--full $(FULL)) $(if $(DOCS),--docs docs)

bench: $(VENV)/.test ## speed and memory; writes the tables of the docs
	@echo "==> benchmarks"
	@$(BIN)/python benchmarks/run.py

docs: $(VENV)/.test ## the tables that the documentation takes from the code
	@echo "==> tables of README.md and docs/"
	@$(BIN)/python docs/generate.py

clean: ## remove .venv, caches and everything that was built
	rm -rf $(VENV) build dist demo-output reports .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- the environment: one .venv for all targets; a stamp says what is installed in it

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("lstmbridge needs Python >= 3.11, and this is " \
	  + sys.version.split()[0] + ": make PYTHON=...")'
	@echo "==> creating $(VENV) with `$(PYTHON) --version`"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.made pyproject.toml constraints.txt
	$(call install,keras$(comma)torch$(comma)onnxruntime)
	@touch $@

$(VENV)/.test: $(VENV)/.made pyproject.toml constraints.txt
	$(call install,test)
	@touch $@ $(VENV)/.demo

comma := ,

# One line a package on the way; pip's own words go to a file, and the end of it is shown if pip fails.
define install
@echo "==> installing lstmbridge[$(1)] (log: $(VENV)/pip.log)"
@rm -f $(VENV)/.failed; { $(INSTALL) -e '.[$(1)]' 2>&1 || touch $(VENV)/.failed; } | while read -r verb file rest; do \
  echo "$$verb $$file $$rest" >&3; \
  if [ "$$verb $$file" = "Using cached" ]; then file=$${rest%% *}; rest=$${rest#* }; fi; \
  name=$${file##*/}; name=$${name%%-cp3*}; name=$${name%%-py[23]*}; \
  case "$$verb $$file" in \
    *.metadata) ;; \
    Downloading*|Using*) echo "      $$name $$rest" ;; \
    Processing*.whl) echo "      $$name" ;; \
    "Installing collected") echo "    unpacking" ;; \
    "Successfully installed") echo "    installed" ;; \
  esac; done 3> $(VENV)/pip.log
@if [ -e $(VENV)/.failed ]; then tail -n 20 $(VENV)/pip.log; echo "==> pip could not install lstmbridge"; exit 1; fi
endef

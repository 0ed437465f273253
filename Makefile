# One command to a finished book: `make book`. See `make help`.

PROFILE ?= quick
CORES ?= all
JOBS ?= 1
VENV ?= .venv
TORCH ?=
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PYTHONS = $(or $(PYTHON),python3.11 python3.12 python3.13 python3)

# VENV=none uses the environment that is active, for example a conda environment.
ifeq ($(VENV),none)
RUN =
READY =
QUANTISED = .quantised
else
RUN = $(VENV)/bin/
READY = $(VENV)/.installed
QUANTISED = $(VENV)/quantised
endif

# What pip fetches is checked by the sums in the locks. TORCH=cpu takes PyTorch's build without CUDA from
# PyTorch's own index, before all else. So is a wheel of that build which pip is told of by `find-links`.
PIP = $(VENV)/bin/python -m pip install -qq --disable-pip-version-check --no-deps
ifeq ($(TORCH),cpu)
TORCH_FIRST = $(PIP) --index-url $(TORCH_INDEX) -r requirements-cpu.lock
else ifneq ($(TORCH),)
$(error TORCH=$(TORCH) is not known; say TORCH=cpu, or leave it out for the build of the package index)
else
TORCH_FIRST = $(PIP) --no-index -r requirements-cpu.lock 2>/dev/null || true
endif

# As it was given: make itself would read a `$$` in a path. The shell gets it in a variable, quoted.
export GIVEN_PROFILE := $(value PROFILE)
NAME = name=$$(basename "$$GIVEN_PROFILE"); name=$${name%.yaml}; name=$${name%.yml}

# Ends at once, with all that it started, on Ctrl-C and when it is told to end.
STOPPABLE = $(RUN)python -P smf_lib/study/stoppable.py

SNAKEMAKE = $(STOPPABLE) $(RUN)python -m snakemake --cores $(CORES) --nolock --rerun-incomplete \
	--rerun-triggers mtime params input --quiet host progress rules reason \
	--config "profile=$$GIVEN_PROFILE" jobs=$(JOBS)

.DEFAULT_GOAL := help
.PHONY: help book published browse study test slow lint lock clean

help:
	@echo "make book            make the environment, run the study, build the book (PROFILE=quick)"
	@echo "make book PROFILE=x  the same for profiles/x.yaml, or for the path of a profile"
	@echo "make published       build the book from the recorded studies: no model, no training, 2 minutes"
	@echo "make browse          open the pages of make published in Chromium: axe, print, phone, search"
	@echo "make study           run the study and write its records, but build no pages"
	@echo "make study PROFILE=x JOBS=4   the same with four runs side by side"
	@echo "make test            make the environment and pass all tests but the slow ones"
	@echo "make slow            pass the tests that need the real model or a minute each"
	@echo "make lint            check format, style, docstrings, types, dead code and dependencies"
	@echo "make lock            write requirements*.lock again from pyproject.toml (needs uv)"
	@echo "make clean           remove pages and notebooks that were run (work/PROFILE); what was trained is"
	@echo "                     in work/kept, for all profiles; records stay too"
	@echo
	@echo "JOBS=1      runs side by side, which share the cores (and the GPU, where there is one)"
	@echo "CORES=all   cores to use      VENV=.venv   the environment; VENV=none: the active one"
	@echo "PYTHON=...  the Python to make the environment with, 3.11 or newer"
	@echo "TORCH=cpu   when making it: PyTorch without CUDA (on Linux 0.2 GB to download, not 2.7)"
	@echo "TORCH_INDEX=...  a mirror of PyTorch's own index to take it from"

book: $(READY)
	@$(SNAKEMAKE) -- book
	@$(NAME); echo "The book: $$PWD/work/$$name/site/_build/html/index.html"

published: $(READY)
	@$(STOPPABLE) $(RUN)python -m smf_lib.report.book published

browse: $(READY)
	@$(RUN)python -m smf_lib.report.book browse --profile published

study: $(READY)
	@$(SNAKEMAKE) -- study

test: $(READY) $(QUANTISED)/.installed
	@$(RUN)python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --ignore tests/quantised \
		--ignore tests/kernels
	@PYTHONPATH=$(QUANTISED) $(RUN)python -m pytest tests/quantised
	@PYTHONPATH=$(QUANTISED) TRITON_INTERPRET=1 $(RUN)python -m pytest tests/kernels

slow: $(READY)
	@$(RUN)python -m pytest -m slow --ignore tests/quantised --ignore tests/kernels

# Apart from the environment, in which they would make every import of PEFT a second slower.
$(QUANTISED)/.installed: requirements-quantised.lock $(READY)
	@rm -rf $(QUANTISED)
	@$(RUN)python -m pip install -qq --disable-pip-version-check --no-deps --target $(QUANTISED) \
		-r requirements-quantised.lock
	@touch $@

lint: $(READY)
	@$(RUN)ruff format --check --quiet --diff .
	@$(RUN)ruff check --quiet .
	@$(RUN)mypy
	@$(RUN)vulture
	@$(RUN)deptry smf_lib/method --ignore DEP002 \
		--optional-dependencies-dev-groups study,book,test,lint
	@$(RUN)deptry smf_lib/study --ignore DEP002 --optional-dependencies-dev-groups book,test,lint
	@$(RUN)deptry smf_lib benchmarks tests
	@$(RUN)check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

lock:
	@uv pip compile pyproject.toml --extra lint --universal --python-version 3.11.0 \
		--fork-strategy fewest --no-annotate --custom-compile-command "make lock" --quiet \
		--generate-hashes --output-file requirements.lock
	@grep --only-matching '^torch==[^ ]*' requirements.lock | uv pip compile - --no-config --universal \
		--python-version 3.11.0 --constraint requirements.lock --no-emit-package torch --no-annotate \
		--custom-compile-command "make lock" --quiet --generate-hashes \
		--output-file requirements-cuda.lock
	@uv pip compile tests/quantised/requirements.in --no-config --universal --no-deps \
		--python-version 3.11.0 --constraint requirements-cuda.lock --no-annotate \
		--custom-compile-command "make lock" --quiet --generate-hashes \
		--output-file requirements-quantised.lock

clean:
	@$(NAME); case "$$name" in \
	  kept|''|[!A-Za-z0-9]*|*[!A-Za-z0-9._+-]*) \
	    echo "PROFILE=$$GIVEN_PROFILE names no profile; nothing is removed" >&2; exit 1;; \
	esac; echo "removing work/$$name"; rm -rf "work/$$name"

# Made once, and again when the lock or the project's own metadata has changed.
$(VENV)/.installed: requirements.lock requirements-cpu.lock requirements-cuda.lock pyproject.toml
	@python=""; \
	for candidate in $(PYTHONS); do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    python="$$candidate"; break; \
	  fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "No Python of 3.11 or newer was found (looked for: $(PYTHONS))." >&2; \
	  echo "Install one, or name it: make book PYTHON=/path/to/python3" >&2; \
	  exit 1; \
	fi; \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "$$python has no venv module (on Debian and Ubuntu: install python3-venv)." >&2; \
	  exit 1; \
	fi; \
	echo "Making the environment in $(VENV) with $$("$$python" --version): once, some minutes."; \
	"$$python" -m venv $(VENV)
	@$(TORCH_FIRST)
	@$(PIP) -r requirements.lock
	@$(VENV)/bin/python -c 'import importlib.metadata, sys; \
		sys.exit("+cpu" in importlib.metadata.version("torch"))' || exit 0; $(PIP) -r requirements-cuda.lock
	@$(PIP) --no-build-isolation -e .
	@touch $@

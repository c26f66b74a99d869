# All that these targets write goes to build/.
#
#   make demo              the main job on a generated sample; ASX=folder takes real files
#   make test              every test; installs what it needs where it may, otherwise names it
#   make test-compose      the tests with containers, on a Docker engine of their own (as root)
#   make check             format, lint, types and the quick tests
#   make notebooks         run the notebooks and rewrite their committed outputs
#   make pictures          draw the pictures of k2 top in docs/img
#   make lab               JupyterLab on the notebooks
#   make bench             the benchmarks
#   make clean             remove build/

PYTHON ?=
ASX    ?=
PYTEST ?=

# The tests wait as much as they compute, so more processes than cores keep two cores busy. Tests of
# a file share what they set up and stay together; tests/conftest.py puts the longest files first.
QUICK  := not stack and not slow
SPREAD := -n 4 --dist loadfile --no-loadscope-reorder

# A home syncs every commit to its disk, which no test needs: they run in memory where 4 GB of it are
# free (a whole run writes 0.7 GB, and pytest keeps three), else where pytest puts them.
TEMPROOT ?= $(shell [ -w /dev/shm ] && df --output=avail /dev/shm | tail -1 \
    | awk '$$1 > 4000000 { print "/dev/shm" }')

VENV   := build/venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
CLIENT := build/generator/.installed-0.29.1
CACHE  := $(CURDIR)/build/cache
comma  := ,

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export IPYTHONDIR                    := $(CACHE)/ipython
export JUPYTER_RUNTIME_DIR           := $(CACHE)/jupyter
export POLARS_ICEBERG_PLANNER        := pyiceberg

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-compose docker-images check static quick notebooks pictures lab bench clean debian

help:
	@sed -n 's/^#   //p' Makefile

demo: $(STAMP)-notebooks
	$(BIN)/k2 demo $(if $(ASX),--asx "$(ASX)")

test: $(STAMP)-dev $(CLIENT) debian
	PYTEST_DEBUG_TEMPROOT=$(TEMPROOT) $(BIN)/python -m pytest $(SPREAD) $(PYTEST)

# Each goes on where the one before it ended. Not among those of `make test`: starting an engine
# disturbs whoever connects to 127.0.0.1. With
# TEST_DOCKER_HOST=unix:///… they use the engine that is there.
test-compose docker-images: DEBIAN := dockerd:docker.io debootstrap:debootstrap \
    java:default-jre-headless mvn:maven

test-compose: docker-images
	$(BIN)/python -m pytest -x tests/compose $(PYTEST)

# The images that those tests run; says in one line why an engine or an image is not to be had here.
docker-images: $(STAMP)-dev debian
	@PYTHONPATH=.:tests $(BIN)/python -m support.stand_in

# mypy takes a quarter of a minute where it has no cache yet: the tests need not wait for it.
check: $(STAMP)-dev
	@$(MAKE) --no-print-directory --jobs=2 static quick

static:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

quick:
	PYTEST_DEBUG_TEMPROOT=$(TEMPROOT) $(BIN)/python -m pytest $(SPREAD) -m "$(QUICK)" $(PYTEST)

notebooks: $(STAMP)-dev
	$(BIN)/k2 notebooks --in-place

pictures: $(STAMP)-dev
	PYTHONPATH=tests $(BIN)/python tests/support/draw_top.py

lab: $(STAMP)-notebooks
	$(BIN)/jupyter lab notebooks

bench: $(STAMP)-dev
	$(BIN)/python -m bench

clean:
	rm -rf build

$(BIN)/python:
	@for python in $(or $(PYTHON),python3.11 python3); do \
	    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	    "$$python" -c 'import ensurepip, venv' 2>/dev/null \
	        || { echo "make: $$python has no venv: install it (Debian: python3-venv)" >&2; exit 1; }; \
	    exec "$$python" -m venv $(VENV); \
	done; \
	echo "make: Python 3.11 or newer not found: install it, or name it with PYTHON=…" >&2; exit 1

# Compiled modules go to build/cache too, whoever starts this Python and from wherever; they are
# written there even where the environment asks for none, because nothing else gets littered.
$(VENV)/.pycache: $(BIN)/python
	@site=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	line="import sys; sys.pycache_prefix = '$(CACHE)/pycache'; sys.dont_write_bytecode = False"; \
	echo "$$line" > "$$site/pycache.pth"
	@touch $@

# uv installs in seconds what takes pip a minute; pip does it where uv cannot (it reads no pip.conf).
define install
	@$(BIN)/uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet uv==0.13.9 || true
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[$(1)]' \
	    || $(BIN)/python -m pip install --quiet --no-compile --editable '.[$(1)]'
	@touch $@
endef

$(STAMP)-notebooks: pyproject.toml $(VENV)/.pycache
	@echo "Installing k2lib and what it needs into $(VENV)"
	$(call install,notebooks)

$(STAMP)-dev: $(STAMP)-notebooks
	@echo "Installing the test tools into $(VENV)"
	$(call install,notebooks$(comma)dev)

# A test generates a client of the API; the generator wants an older typer than k2lib.
$(CLIENT): | $(STAMP)-dev
	@$(BIN)/python -m venv $(@D)
	@$(BIN)/uv pip install --quiet --python $(@D)/bin/python openapi-python-client==0.29.1 \
	    || $(@D)/bin/python -m pip install --quiet openapi-python-client==0.29.1
	@touch $@

# command:package, what the tests run beside Python
DEBIAN := java:default-jre-headless mvn:maven kcat:kcat chromium:chromium \
          redis-server:redis-server pg_ctlcluster:postgresql promtool:prometheus \
          prometheus-alertmanager:prometheus-alertmanager

debian:
	@missing=; for pair in $(DEBIAN); do \
	    command -v "$${pair%%:*}" >/dev/null || missing="$$missing $${pair##*:}"; \
	done; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing Debian packages:$$missing"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	        apt-get install -qq -y --no-install-recommends $$missing >/dev/null; \
	else \
	    echo "make: missing Debian packages:$$missing (apt-get install$$missing)" >&2; exit 1; \
	fi

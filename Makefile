PYTHON ?= python3
PYTEST_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
VENV_PACKAGE = $$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

# Where the shell exports it, every start of Prefect compiles all its modules anew.
unexport PYTHONDONTWRITEBYTECODE
export PIP_DISABLE_PIP_VERSION_CHECK = 1

apt_install = \
    { command -v apt-get > /dev/null || { echo "Please install $(1)" >&2; exit 1; }; } \
    && $(SUDO) apt-get -q update \
    && $(SUDO) env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends $(1)

# uv takes a quarter of pip's time; pip does where uv cannot (a proxy or an index set up for pip only).
install = \
    $(BIN)/python -m pip install -q uv \
    && $(BIN)/uv pip install -q --python $(BIN)/python --compile-bytecode -e '$(1)' -c constraints.txt \
    || $(BIN)/python -m pip install -q --compile -e '$(1)' -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help venv demo ui test lint types azurite postgres browser fuse constraints clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.demo-stamp ## Run the demo in the terminal
	$(BIN)/prefect-datastores demo

ui: $(VENV)/.demo-stamp ## Run the demo with Prefect's pages
	$(BIN)/prefect-datastores demo --ui

venv: $(VENV)/.dev-stamp ## Make .venv with all that development needs

test: venv azurite postgres browser fuse lint types ## Check the style and the types, and run all tests
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(PYTEST_ARGS)

lint: venv ## Check the style
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: venv ## Check the types
	$(BIN)/mypy

azurite: venv ## Build the tests' blob server, with Node or without
	$(BIN)/python tests/servers/azurite/build.py

postgres: venv ## Fetch the database of the tests' Prefect server
	PYTHONPATH=tests $(BIN)/python -m servers.postgres

browser: ## Install Chromium for the tests where there is none
	@command -v chromium || command -v chromium-browser || command -v google-chrome \
	    || { $(call apt_install,chromium fonts-liberation); }

fuse: ## Install what mounts for users without rights, and what the tests use mounts by, where there is none
	@command -v fusermount3 && command -v rsync && command -v fio && command -v stress-ng \
	    || { $(call apt_install,fuse3 rsync fio stress-ng); }

constraints: | $(BIN)/python ## Remake constraints.txt with today's versions
	$(BIN)/python -m venv .tools/uv
	.tools/uv/bin/python -m pip install -q uv
	sed -n '/^#/p' constraints.txt > .tools/constraints.txt
	.tools/uv/bin/uv pip compile -q --universal --python-version 3.10 --extra dev \
	    --no-header --no-annotate pyproject.toml >> .tools/constraints.txt
	mv .tools/constraints.txt constraints.txt

clean: ## Remove all that was made here
	rm -rf $(VENV) .tools .demo dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/.dev-stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,.[dev])
	touch $(VENV)/.demo-stamp $@

$(VENV)/.demo-stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,.[demo])
	touch $@

# Debian and Ubuntu ship Python without the part that makes environments.
$(BIN)/python:
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { $(call apt_install,$(VENV_PACKAGE)); }
	$(PYTHON) -m venv $(VENV)

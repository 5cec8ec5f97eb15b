# Everything a developer runs. Each target sets up what it needs first; see scripts/setup.sh.
#
# ARGS   options for the program behind the target:  make demo ARGS=--once
# NOMAD  a Nomad binary; tests that need a real agent are skipped without one
# DEBIAN the Debian that `make deb` builds the package for: 13 (default) or 12
# ELEMENTAL  an Elemental CLI; with NOMAD, instead of the pinned releases of both in the node's system
# CI     true: a test that lacks something every CI machine has fails instead of being skipped

SHELL := /bin/sh
.DEFAULT_GOAL := help

PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest
# Two files of tests at a time: most tests wait for a guest, which has one CPU. In the order of
# SYSTEM_TESTS, the longest first, for one that begins last would be waited for alone.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder
SYSTEM_TESTS := tests/e2e tests/os tests/integration tests/network tests/browser
# The longest first here, too, but for the one that need not wait for the other's installation.
LONGEST := power_cuts unattended fall_back upgrade node live
LONGEST := $(patsubst %,tests/scenario/test_%.py,$(LONGEST))
SCENARIO := $(LONGEST) $(filter-out $(LONGEST),$(wildcard tests/scenario/test_*.py))

# One thing at a time: the targets share one environment and the machine.
.NOTPARALLEL:
.PHONY: help setup python demo deb iso oci check unit guests test test-debian13 test-os screenshots bench clean

help: ## Show this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1|\2/p' Makefile | \
		while IFS='|' read -r target text; do printf '  make %-15s %s\n' "$$target" "$$text"; done

setup: ## Install what the targets below need, if it is missing
	@scripts/setup.sh

python:
	@scripts/setup.sh --python

demo: setup ## Build a guest image and boot two VMs under Secure Boot (ARGS=--once: until they are ready)
	@scripts/demo.sh $(ARGS)

deb: setup ## Build the Debian package into out/ (DEBIAN=12: for Debian 12)
	@scripts/deb.sh --lint --output out $(ARGS)

check: python ## Format, lint, types, layers, unit tests; needs no root, KVM or network
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/ruff check --quiet .
	@.venv/bin/mypy src tests
	@MYPYPATH=. .venv/bin/mypy -p bench -p osimage
	@.venv/bin/lint-imports --no-logo
	@$(PYTEST) -q $(PARALLEL) tests/unit

unit: python ## The unit tests
	@$(PYTEST) -q $(PARALLEL) tests/unit $(ARGS)

guests: setup ## The integration and end-to-end tests
	@$(PYTEST) $(PARALLEL) $(SYSTEM_TESTS) $(ARGS)

test: setup check ## Every test this machine can run; the end says which it skipped and why
	@$(PYTEST) $(PARALLEL) $(SYSTEM_TESTS) $(ARGS)

test-debian13: setup ## The same tests in a fresh Debian 13 with its Python and QEMU; needs root
	@scripts/debian13.sh $(ARGS)

test-os: setup ## A node's life in VMs, from the ISO to a factory reset; needs NOMAD= and ELEMENTAL= (an hour)
	@[ -x "$(NOMAD)" ] && [ -x "$(ELEMENTAL)" ] || \
		{ echo "test-os: give both programs: make test-os NOMAD=/path ELEMENTAL=/path" >&2; exit 2; }
	@$(PYTHON) -m osimage.build iso --tag=test --out=out/test
	@$(PYTHON) -m osimage.build oci --tag=test --out=out/test
	@OS_IMAGE=out/test $(PYTEST) $(PARALLEL) --durations=0 $(SCENARIO) $(ARGS)

screenshots: setup ## Make the pictures of the docs anew
	@PYTHONPATH=src:tests $(PYTHON) -m browser.screenshots docs

bench: setup ## Measure the performance goals (ARGS=--json for programs)
	@.tools/bin/uv sync --quiet --locked --group bench
	@$(PYTHON) -m bench $(ARGS)

iso: setup ## The node's operating system as an ISO (ARGS=--tag=NAME; docs/os-build.md)
	@$(PYTHON) -m osimage.build iso $(ARGS)

oci: setup ## The same as an OCI image, for upgrades
	@$(PYTHON) -m osimage.build oci $(ARGS)

clean: ## Remove the environment, caches and guest images; no Debian packages
	rm -rf .venv .tools .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

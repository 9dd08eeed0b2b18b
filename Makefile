# SPDX-License-Identifier: Apache-2.0
#
# The commands of this repository; `make` lists them. CMake presets build, scripts/ does the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

JOBS ?= $(shell nproc)
PRESET ?= release

# Clones at different paths share ccache's objects: paths under the clone are hashed relative to it.
export CCACHE_BASEDIR := $(CURDIR)
export CCACHE_NOHASHDIR := 1

.PHONY: help deps python-env build demo test bench docs wheel lint format asan tsan neon \
	hip-amd hip-nvidia test-containers test-monitoring test-page ci-full clean

help: ## Show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

deps: ## Install the Debian packages that are missing
	@scripts/install_deps.sh $(filter neon hip-amd,$(PRESET))

python-env: deps ## Make .venv for the Python client and tests
	@scripts/python_env.sh

build: deps ## Build into build/release (or PRESET=debug, asan-ubsan, tsan, clang, neon, hip-amd)
	@scripts/build.sh $(PRESET) $(JOBS)

demo: build ## Run a language model with every attention call served by attnd
	@scripts/demo.sh

test: build ## Build, and run every test: C++ with ctest, Python with pytest
	@scripts/test.sh $(PRESET) $(JOBS)

test-page: build ## Test the status page in headless Chromium; pictures in build/page
	@scripts/test_page.sh

bench: build ## Run every benchmark; tables on screen, rows in build/bench/*.json
	@scripts/bench.sh

wheel: build python-env ## Make the Python wheel, the daemon in it, in build/wheel
	@.venv/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/wheel \
		./client/python
	@ls build/wheel/*.whl

docs: build ## Build the documentation into build/docs/html
	@scripts/docs.sh

lint: deps ## Run the static checks: formats, tidy, shellcheck, ruff, mypy, clang, clang-tidy
	@scripts/lint.sh

format: ## Format the C++ sources and protos
	@scripts/format.sh --write

asan: ## Build with ASan and UBSan and run the C++ tests
	@$(MAKE) --no-print-directory test PRESET=asan-ubsan

tsan: ## Build with TSan and run the C++ tests
	@$(MAKE) --no-print-directory test PRESET=tsan

neon: ## Cross-compile the kernels for AArch64 and run their tests under qemu-user
	@$(MAKE) --no-print-directory test PRESET=neon

hip-amd: ## Build daemon and AMD kernels with ROCm, in a Debian root; run what needs no GPU
	@$(MAKE) --no-print-directory test PRESET=hip-amd

hip-nvidia: deps ## Build the NVIDIA plugin, its tests and benchmark, and bundle them
	@scripts/build.sh hip-nvidia $(JOBS) gpu_bundle

test-containers: ## Build the container images and run them, under a docker of its own (needs root)
	@scripts/containers.sh

test-monitoring: build ## Test Prometheus' rules and Grafana's dashboard, with a real Prometheus
	@scripts/monitoring.sh

ci-full: ## All that .ci/run does without its budgets, the slow sanitized tests, and the demo
	@scripts/ci.sh --full

clean: ## Remove build/ (keeps .venv, .venv-tools and ccache)
	@rm -rf build

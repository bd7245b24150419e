# One command each; `make` lists them.
.PHONY: help setup build demo test chaos lint format bench proto clean
.DEFAULT_GOAL := help

ANIRA := .build/release/anira
PYTHON := $(CURDIR)/.venv/bin/python
SYSTEM_PACKAGES := libzmq3-dev libopenblas-dev liblmdb-dev lmdb-utils protobuf-compiler libprotobuf-dev python3-venv

help: ## List the commands
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

setup: ## Install the system packages (apt) and the Python tools of the tests (.venv)
	@scripts/setup.sh $(SYSTEM_PACKAGES)

build: setup ## Build the anira executable (release)
	swift build -c release --product anira

demo: build ## Start the services on a shipped model, ask it MANO problems, look into the store, stop
	@scripts/demo.sh $(ANIRA)

test: setup ## Build everything, run the unit tests and the acceptance tests against real processes
	swift test
	swift build -c release --product anira
	$(PYTHON) -m pytest -q Tests/Acceptance

MINUTES ?= 2

chaos: build ## Kill and stop random services for MINUTES=2 while clients check every answer
	$(PYTHON) Tests/Acceptance/chaos.py --minutes $(MINUTES)

lint: setup ## Formatting of Swift sources, compose files
	@swift format lint --strict Package.swift $(SWIFT_SOURCES)
	@compose/validate.sh $(PYTHON)

SWIFT_SOURCES := $(shell find Sources Tests -name '*.swift' -not -name '*.pb.swift')

format: ## Format all Swift sources in place
	swift format --in-place Package.swift $(SWIFT_SOURCES)

bench: build ## Measure the engine and the suite against the machine's limits
	$(ANIRA) bench kernels
	$(ANIRA) bench decode
	$(ANIRA) bench batch
	$(ANIRA) bench prefill
	$(ANIRA) bench context
	$(ANIRA) bench store
	$(ANIRA) bench transport
	$(ANIRA) bench suite

proto: ## Generate the Swift code of the .proto files again
	scripts/generate-proto.sh

clean: ## Remove build products and the Python tools
	rm -rf .build .build-protoc .venv

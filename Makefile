# Every command there is. `make` prints them. CI calls the same targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# Build output lives outside the tree, so that the next checkout can reuse it.
CACHE := $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/freehold
export CARGO_TARGET_DIR ?= $(CACHE)/target
export FREEHOLD_TOOLS ?= $(CACHE)/tools
export PATH := $(FREEHOLD_TOOLS)/bin:$(PATH)
DEBUG_BIN := $(CARGO_TARGET_DIR)/debug
RELEASE_BIN := $(CARGO_TARGET_DIR)/release

.PHONY: help
help: ## Print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

.PHONY: setup
setup: ## Install what building needs (a C compiler, a Rust toolchain's partner tools)
	@deploy/setup.sh build

.PHONY: setup-test
setup-test: ## Install what the tests need beside that (PostgreSQL, programs of others)
	@deploy/setup.sh test

.PHONY: build
build: setup ## Build the three programs with quick settings
	cargo build --locked --workspace --bins

.PHONY: release
release: setup ## Build the three programs as they are shipped
	cargo build --locked --workspace --bins --release

.PHONY: demo
demo: build ## Run the main job from start to end and print a transcript
	@FREEHOLD_BIN=$(DEBUG_BIN) deploy/demo.sh

.PHONY: up
up: build ## Start a control plane and an agent, set them up, and stay
	@FREEHOLD_BIN=$(DEBUG_BIN) deploy/demo.sh --stay

.PHONY: test
test: setup-test format lint deny ## Everything that must pass
	cargo test --locked --workspace --no-fail-fast
	$(MAKE) --no-print-directory contracts-check

.PHONY: format
format: ## Check the formatting
	cargo fmt --all --check

.PHONY: lint
lint: setup ## Clippy; warnings are errors
	cargo clippy --locked --workspace --all-targets -- -D warnings

.PHONY: deny
deny: ## Licences, banned crates and sources (the parts that need no network)
	@deploy/setup.sh deny
	cargo fetch --locked
	cargo deny --locked --offline check bans licenses sources

.PHONY: contracts
contracts: setup ## Rewrite the committed contracts from the code
	FREEHOLD_BLESS=1 cargo test --locked --workspace --lib -- the_committed_document_is_what_the_code_says
	cargo build --locked --workspace --bins --tests
	$(DEBUG_BIN)/freehold-control-plane print-sdl > schema/contracts/control-plane.graphql
	$(DEBUG_BIN)/freehold-control-plane print-config-schema > schema/contracts/control-plane.config.schema.json
	$(DEBUG_BIN)/freehold-agent print-config-schema > schema/contracts/agent.config.schema.json

# Built with what the tests are built with (their features differ from those of a plain build), so that nothing is compiled twice.
.PHONY: contracts-check
contracts-check: setup ## Fail when the committed contracts differ from the code
	cargo build --locked --workspace --bins --tests
	@deploy/contracts-check.sh "$(DEBUG_BIN)"

.PHONY: soak
soak: setup-test ## Long trials; make test holds a short form of each
	FREEHOLD_SOAK=1 cargo test --locked --workspace --no-fail-fast -- --test-threads 1
	FREEHOLD_TEST_STORE=postgres-roles cargo test --locked --workspace --no-fail-fast --test agent --test agents_api --test signers
	cargo build --locked --workspace --release --bins --bench system
	FREEHOLD_BENCH_SOAK_SECONDS=3600 FREEHOLD_BIN=$(RELEASE_BIN) cargo bench --locked --workspace --bench system

BENCHES := --bench cryptography --bench decision --bench journal --bench store --bench system --bench scale

# Programs and benches are built by one command: features are resolved once, and nothing is compiled twice.
.PHONY: bench
bench: setup-test ## Measure; raw figures and method go to docs/benchmarks
	cargo build --locked --workspace --release --bins $(BENCHES)
	FREEHOLD_BIN=$(RELEASE_BIN) cargo bench --locked --workspace $(BENCHES)
	deploy/criterion-json.sh "$(CARGO_TARGET_DIR)/criterion" > docs/benchmarks/cryptography.json

.PHONY: clean
clean: ## Remove build output and what `make up` left
	rm -rf "$(CARGO_TARGET_DIR)" .run

# Thin: every target calls cargo, xtask or a script. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
STATE ?= /var/lib/atoll/home
export PATH := $(HOME)/.cargo/bin:$(PATH)
# Only what needs root gets it.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
ATOLL := target/release/atoll

.PHONY: help up down status test lint check-arm64 bench examples build clean-state

help: ## List what can be made
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

up: ## Build, start the region "home" with the hello page in it, and say where everything is
	@scripts/up $(STATE)

down: ## Stop the region, keep its state
	@$(SUDO) $(ATOLL) --state $(STATE) down

status: ## Say what runs and what is wrong
	@$(SUDO) $(ATOLL) --state $(STATE) status

test: ## All tests
	@scripts/require test
	@scripts/test

lint: ## Formatting, clippy, licences and sources of dependencies, tidy
	@scripts/require lint
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings
	cargo fetch --locked --quiet
	cargo deny --offline check bans licenses sources
	cargo build --release --workspace --quiet
	target/release/xtask tidy

check-arm64: ## Whether the mesh compiles for 64-bit ARM; fetches a cross compiler
	@scripts/require arm64
	CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc cargo check --locked --target aarch64-unknown-linux-gnu \
		-p atoll-mesh-core -p atoll-mesh -p atoll-os

bench: ## Measure, AREA=region or AREA=mesh for one area; prints a table, JSON in target/bench/
	@scripts/require bench
	@[ "$(AREA)" = mesh ] || scripts/examples
	@cargo build --release --workspace
	@$(SUDO) env "PATH=$(PATH)" target/release/bench $(AREA)

build: ## Only build the binary
	@scripts/require build
	cargo build --release --workspace

examples: ## Build the images of the examples
	@scripts/examples

clean-state: down ## Stop the region and DELETE its state: its ledger, its wallet, its apps
	$(SUDO) rm -rf $(STATE)

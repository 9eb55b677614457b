# moonshard. `make help` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.SILENT:
.DEFAULT_GOAL := help
.PHONY: help run build test check loadtest bench perf tls-scan soak fuzz packages rust

# Debian packages. First what the build needs, then what the host starts or loads, then fonts and tools.
PACKAGES := \
  gcc libc6-dev pkg-config clang cmake \
  libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev \
  libwayland-dev libxkbcommon-dev libpixman-1-dev libpulse-dev libopus-dev \
  gstreamer1.0-tools gstreamer1.0-libav \
  gstreamer1.0-plugins-base gstreamer1.0-plugins-good \
  gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly \
  pulseaudio pulseaudio-utils foot fuzzel swaybg \
  xkb-data fonts-dejavu-core iproute2

# The oldest Rust that builds it.
RUST := 1.92
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
APT := $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get

# What the harness is told: make loadtest HOST=192.168.1.20 APP="Test pattern"
HOST ?=
APP ?= Test pattern
PIN ?=
SECONDS_EACH ?= 10
SEED := $(or $(SEED),$(shell od -An -N4 -tu4 /dev/urandom | tr -d ' '))
CYCLES ?= 64
# Seconds of fuzzing.
TIME ?= 30
RESULTS := target/loadtest
HARNESS = LOADTEST=$(CURDIR)/target/release/moonshard-loadtest MOONSHARD=$(CURDIR)/target/release/moonshard

COVERAGE := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares

help: ## This list
	sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

run: build ## Install what is missing, build, start the host (ARGS="--config FILE")
	exec target/release/moonshard serve $(ARGS)

build: packages rust ## Install what is missing and build
	cargo build --release --locked

test: packages rust ## Install what the tests need and run them all
	cargo test --workspace --locked --no-fail-fast

check: packages rust ## Format, lints and the tests of the pure ring; seconds when warm
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo test --no-default-features --lib --locked

loadtest: packages rust ## Measure a host of its own, or the one at HOST (APP, PIN); report in target/loadtest
	cargo build --release --locked --workspace
	export $(HARNESS) APP="$(APP)" PIN="$(PIN)" SECONDS_EACH="$(SECONDS_EACH)" SEED=$(SEED)
	if [ -n "$(HOST)" ]; then
	  ATTACK=no HTTP="$(HOST):47989" HTTPS="$(HOST):47984" loadtest/scripts/measure.sh $(RESULTS)
	else
	  LOCAL=yes loadtest/scripts/with-host.sh $(RESULTS) loadtest/scripts/measure.sh $(RESULTS)
	fi

bench: packages rust ## Benchmarks
	cargo bench --locked -p moonshard -p moonshard-bench

perf: packages rust ## Measure TLS beside nginx and others (ARGS=--quick); nothing else should run
	perf/run $(ARGS)

tls-scan: packages rust ## Let sslscan and testssl.sh look for weaknesses of the HTTPS port
	perf/tls-scan

soak: packages rust ## 500 short streams with faults, 8 at a time, then the long simulations (SEED, CYCLES)
	cargo build --release --locked --workspace
	export $(HARNESS)
	echo "SEED=$(SEED)"
	loadtest/scripts/with-host.sh target/soak bash -c '"$$LOADTEST" play --host "$$HTTP" \
	  --app "Test pattern" --pin-via-admin --moonshard "$$MOONSHARD" --pattern-check --clients 8 \
	  --scenario soak --mode 320x180x15 --bitrate 1000 --cycles $(CYCLES) --seed $(SEED) --save-json target/soak/play.json'
	env -u SEED MOONSHARD_SOAK=1 SEEDS=10000 cargo test --release --locked --workspace --no-fail-fast

# The compiler's own coverage, so that the toolchain of the build suffices.
fuzz: packages rust ## Fuzz one parser (TARGET, TIME); without TARGET: their names
	if [ -z "$(TARGET)" ]; then sed -n 's/^name = "\([a-z0-9_]*\)"/\1/p' fuzz/Cargo.toml; exit; fi
	FUZZ_SEEDS=$(CURDIR)/fuzz/corpus cargo test --no-default-features --locked --test fuzz_replay has_seeds
	mkdir -p fuzz/corpus/$(TARGET) tests/corpus/$(TARGET)
	RUSTFLAGS="$(COVERAGE)" cargo run --release --manifest-path fuzz/Cargo.toml --bin $(TARGET) \
	  --target $$(rustc -vV | sed -n 's/^host: //p') -- -max_total_time=$(TIME) -max_len=65536 \
	  -artifact_prefix=fuzz/$(TARGET)- fuzz/corpus/$(TARGET) tests/corpus/$(TARGET)

packages:
	missing=
	for package in $(PACKAGES); do
	  status=$$(dpkg-query -W -f='$${Status}' "$$package" 2>/dev/null || true)
	  [ "$$status" = "install ok installed" ] || missing+=" $$package"
	done
	[ -n "$$missing" ] || exit 0
	echo "Installing:$$missing"
	$(APT) update -qq </dev/null >/dev/null
	$(APT) install -y -qq --no-install-recommends $$missing </dev/null >/dev/null

# The cargo in PATH if it is new enough; else Debian's rustc-web, where that is new enough.
rust:
	new_enough() { [ "$$(printf '%s\n' $(RUST) "$${1:-0}" | sort -V | head -n1)" = $(RUST) ]; }
	have=$$(cargo --version 2>/dev/null | cut -d' ' -f2 || true)
	new_enough "$$have" && exit 0
	debian=$$(apt-cache policy cargo-web 2>/dev/null | sed -n 's/^ *Candidate: //p')
	if [ -z "$$have" ] && ! new_enough "$$debian"; then
	  $(APT) update -qq </dev/null >/dev/null
	  debian=$$(apt-cache policy cargo-web 2>/dev/null | sed -n 's/^ *Candidate: //p')
	fi
	if new_enough "$$debian"; then
	  echo "Installing Rust $$debian"
	  $(APT) install -y -qq --no-install-recommends rustc-web cargo-web </dev/null >/dev/null
	  exit 0
	fi
	echo "Rust $(RUST) or newer is needed; here is $${have:-none}, and Debian has $${debian:-none}." >&2
	echo "Install it from https://rustup.rs, open a new shell, and run make again." >&2
	exit 1

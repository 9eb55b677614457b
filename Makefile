# moonshard. `make help` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.SILENT:
.DEFAULT_GOAL := help
.PHONY: help run build test check loadtest bench perf tls-scan soak packages rust

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

# What the harness is told: make loadtest HOST=192.168.1.20 APP="Test pattern" TIME=60
HOST ?= 127.0.0.1
APP ?= Test pattern
TIME ?= 30
PLAY = cargo run --release --locked -p moonshard-loadtest -- \
  play --host "$(HOST)" --app "$(APP)" --pin-via-admin

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

loadtest: packages rust ## Play one stream from a running host (HOST, APP, TIME)
	$(PLAY) --seconds $(TIME)

bench: packages rust ## Benchmarks
	cargo bench --locked

perf: packages rust ## Measure TLS beside nginx and others (ARGS=--quick); nothing else should run
	perf/run $(ARGS)

tls-scan: packages rust ## Let sslscan and testssl.sh look for weaknesses of the HTTPS port
	perf/tls-scan

soak: packages rust ## Play from a running host for an hour
	$(PLAY) --seconds 3600

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

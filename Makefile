# demo     install what is missing, build, trace bash as an ordinary user
# test     install what is missing, build, check style, run every test
# bench    measure beside the kernel (as root) and write target/bench.json
# bench-probes  what every kind of probe costs, beside the kernel; write target/bench-probes.json
# bench-maps    what operations of programs cost on maps and the like, beside the kernel
# bench-clients start of tools, and servers under load with them, beside the kernel; write target/bench-clients.json
# bench-wasm    start of Wasm modules, their lookups and records, beside the kernel; write target/bench-wasm.json
# bench-vm time the JIT beside native code and other engines; write target/bench-vm.json
# install  put the one binary under PREFIX (/usr/local)
# check    style and types only
# asan     run the tests of shared memory and maps with AddressSanitizer
# models   run the structures of shared memory under loom (part of test)
.POSIX:
.DEFAULT_GOAL := build
SHELL = /bin/sh

PREFIX  ?= /usr/local
DESTDIR ?=
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/sbin:/sbin

BPFTIME  = target/release/bpftime
FIXTURES = target/fixtures

build:
	@bash xtask/deps.sh build
	cargo build --release -p bpftime-cli

deps:
	@bash xtask/deps.sh build demo test

demo:
	@bash xtask/deps.sh build demo
	cargo build --release -p bpftime-cli
	@bash xtask/demo.sh $(BPFTIME)

fixtures: deps
	@$(MAKE) --no-print-directory -s -C fixtures OUT=$(CURDIR)/$(FIXTURES)

check: deps
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings
	DOCS_RS=1 cargo clippy -p bpftime-attach --features frida -- -D warnings
	cargo clippy -p bpftime-runtime --features model --lib --test model -- -D warnings
	cargo clippy -p bpftime-shm --features model -- -D warnings
	cd wasm/guest/rust && cargo fmt --check && \
		cargo clippy --target wasm32-wasip1 --target-dir ../../../target/guests -- -D warnings

models: deps
	cargo test -p bpftime-runtime --features model --lib models
	cargo test -p bpftime-runtime --features model --test model

asan: deps
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address ASAN_OPTIONS=detect_leaks=0 \
		cargo test --target x86_64-unknown-linux-gnu --target-dir target/asan \
		-p bpftime-shm -p bpftime-runtime --test segment --test maps

test: check fixtures build models
	cargo build --release -p bpftime-torture
	@if cargo nextest --version >/dev/null 2>&1; then \
		echo cargo nextest run --workspace; cargo nextest run --workspace --no-fail-fast; \
	else \
		echo cargo test --workspace; cargo test --workspace --no-fail-fast; \
	fi

bench: fixtures build
	cargo run --release -p bpftime-benches --bin bench

bench-probes: fixtures build
	cargo build --release -p bpftime-attach --example library
	cargo run --release -p bpftime-benches --bin bench-probes

bench-maps: fixtures build
	cargo run --release -p bpftime-benches --bin bench-maps

bench-clients: fixtures build
	@bash xtask/deps.sh bench-clients
	cargo run --release -p bpftime-benches --bin bench-clients

bench-wasm: fixtures build
	cargo run --release -p bpftime-benches --bin bench-wasm

bench-vm:
	@bash xtask/deps.sh build bench-vm
	cargo run --release -p bpftime-benches --bin bench-vm

install: build
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(BPFTIME) $(DESTDIR)$(PREFIX)/bin/bpftime

clean:
	cargo clean

.PHONY: build deps demo fixtures check models asan test bench bench-probes bench-maps bench-clients bench-wasm bench-vm install clean

# `make run` shows ringway at work and needs nothing but Rust. `make test` is what the pipeline runs.

SHELL := /bin/bash
CARGO ?= cargo
# Real servers that the system tests drive, from Debian's packages.
SERVERS := iperf3 postgresql postgresql-contrib redis-server redis-tools util-linux nginx nsd memcached iproute2 mariadb-server mariadb-client haproxy openssl prometheus unbound dnsperf systemd systemd-container man-db chromium chromium-driver
# Those that only the long variants drive.
SOAK_SERVERS := patroni python3-etcd python3-psycopg2 etcd-server
# So many test programs at a time, and in each so many tests. Those that measure or load the machine take turns by themselves.
PROGRAMS ?= 2
THREADS ?= 4

# libFuzzer: seconds for each codec, and the compiler's instrumentation, which any Rust has.
FUZZ_SECONDS ?= 60
FUZZ_FLAGS := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1
FUZZ_HOST = $(shell rustc -vV | sed -n 's/^host: //p')

.PHONY: run build test servers soak-servers tools fmt lint units systems soak soaks fuzz bench deb package

run:
	$(CARGO) run --release -- demo

build:
	$(CARGO) build --release

test: servers tools fmt lint units systems

servers soak-servers:
	@missing=(); \
	for package in $(if $(filter soak-servers,$@),$(SOAK_SERVERS),$(SERVERS)); do \
		dpkg-query -W -f='$${Status}' $$package 2>/dev/null | grep -q 'install ok installed' || missing+=($$package); \
	done; \
	if [ $${#missing[@]} -gt 0 ]; then \
		echo "installing $${missing[*]}"; \
		as_root=; [ "$$(id -u)" = 0 ] || as_root=sudo; \
		$$as_root apt-get update -q && \
		DEBIAN_FRONTEND=noninteractive $$as_root apt-get install -y -q --no-install-recommends "$${missing[@]}"; \
	fi

fmt:
	$(CARGO) fmt --check

lint:
	$(CARGO) clippy --all-targets -- -D warnings

# The rooms' own tests.
units:
	$(CARGO) test --lib --bins

# The built binary with real sockets, clients and servers, and the laws of the house.
systems:
	CARGO="$(CARGO)" PROGRAMS=$(PROGRAMS) THREADS=$(THREADS) .ci/systems

# The long variants: minutes of silence, longer measurements, more seeds; then libFuzzer on every codec.
soak: soaks fuzz

soaks: servers soak-servers
	ulimit -n "$$(ulimit -Hn)" && RINGWAY_SOAK=1 $(CARGO) test --no-fail-fast -- --test-threads=2 --nocapture

# Each codec's corpus stays as it is; what is found new goes to target/fuzz, what breaks to fuzz/artifacts.
fuzz:
	cd fuzz && RUSTFLAGS="$(FUZZ_FLAGS)" $(CARGO) build --release --target $(FUZZ_HOST)
	@mkdir -p fuzz/artifacts; \
	for target in $$(ls fuzz/corpus); do \
		mkdir -p target/fuzz/$$target; \
		echo "fuzzing $$target for $(FUZZ_SECONDS) s"; \
		RINGWAY_FUZZ_TARGET=$$target fuzz/target/$(FUZZ_HOST)/release/any -max_total_time=$(FUZZ_SECONDS) \
			-max_len=40000 -timeout=10 -print_final_stats=1 -verbosity=0 -artifact_prefix=fuzz/artifacts/ \
			target/fuzz/$$target fuzz/corpus/$$target || exit 1; \
	done

bench:
	$(CARGO) bench

# A Debian package, in target/debian if nothing else is said. The program tells its own manual and completions.
DEB_PROGRAM ?= target/release/ringway
DEB_PROFILE ?= release
DEB_INTO ?= target/debian
DEB_OPTIONS ?=

deb: tools build package

package:
	@mkdir -p target/deb
	@$(DEB_PROGRAM) man > target/deb/ringway.1
	@for shell in bash zsh fish; do $(DEB_PROGRAM) completions $$shell > target/deb/ringway.$$shell || exit 1; done
	$(CARGO) deb --quiet --no-build --no-dbgsym --profile $(DEB_PROFILE) --output $(DEB_INTO) $(DEB_OPTIONS)

# What cargo does not bring itself.
tools:
	@$(CARGO) deb --version > /dev/null 2>&1 || $(CARGO) install --locked --debug cargo-deb

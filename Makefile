# `make run` shows ringway at work and needs nothing but Rust. `make test` is what the pipeline runs.

SHELL := /bin/bash
CARGO ?= cargo
# Real servers that the system tests drive, from Debian's packages.
SERVERS := iperf3 postgresql postgresql-contrib redis-server redis-tools util-linux nginx nsd memcached iproute2 mariadb-server mariadb-client haproxy openssl prometheus chromium chromium-driver
# Test programs run one after the other; inside one, this many tests at a time. Those that measure or load the machine
# take turns by themselves.
THREADS ?= 4

.PHONY: run build test servers fmt lint units systems soak bench

run:
	$(CARGO) run --release -- demo

build:
	$(CARGO) build --release

test: servers fmt lint units systems

servers:
	@missing=(); \
	for package in $(SERVERS); do \
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
	ulimit -n "$$(ulimit -Hn)" && $(CARGO) test --test '*' --no-fail-fast -- --test-threads=$(THREADS)

# The long variants: minutes of silence, longer measurements, more seeds.
soak:
	ulimit -n "$$(ulimit -Hn)" && RINGWAY_SOAK=1 $(CARGO) test --no-fail-fast -- --test-threads=2 --nocapture

bench:
	$(CARGO) bench

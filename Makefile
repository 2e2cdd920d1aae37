# Each target does its own set-up. Needed: cargo, CPython 3.10 or newer with pip and venv, make, a C compiler.

PYTHON ?= python3
CARGO ?= cargo
TOOLS := target/tools
EXTENSION := worker-py/python/pillion/_native.abi3.so
BINARY := target/release/pillion

# cdylibs have one name per platform.
ifeq ($(shell uname -s),Darwin)
LIBRARY := target/release/libpillion_worker.dylib
else
LIBRARY := target/release/libpillion_worker.so
endif

.DEFAULT_GOAL := help
.PHONY: help build extension demo test test-long test-rust test-python lint lint-rust lint-python bench bench-all bench-cpu bench-peers

help: ## What can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: extension ## The release binary, worker package included: target/release/pillion
	$(CARGO) build --release --locked --workspace

# Every build names the whole workspace: what a crate is built with depends on what is built beside it, and this way nothing is built twice.
# The copy is made only if it differs, since the binary is built again whenever the package that it carries is touched.
extension:
	$(CARGO) build --release --locked --workspace
	@cmp -s $(LIBRARY) $(EXTENSION) || { cp $(LIBRARY) $(EXTENSION).new && mv $(EXTENSION).new $(EXTENSION); }

demo: build ## Fill the gaps in a year of weather readings with a pandas function
	@$(PYTHON) examples/demo.py $(BINARY)

test: test-rust test-python ## Every test

test-rust: build
	$(CARGO) test --release --locked --workspace

test-python: build
	$(PYTHON) worker-py/tests/matrix.py

test-long: build ## Random programs with kills, and runs that are killed, at 40 times the size of `make test`
	PILLION_TEST_CASES=1000 PILLION_TEST_KILLS=200 $(CARGO) test --release --locked --workspace --test exactly_once --test keyed --test cli_checkpoints -- results_are sums_are that_is_killed

lint: lint-rust lint-python ## Formatting, lints and types; warnings are errors

lint-rust: extension
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings

lint-python: $(TOOLS)/.done
	$(TOOLS)/bin/ruff check worker-py examples scripts benches
	$(TOOLS)/bin/ruff format --check worker-py examples scripts benches
	cd worker-py && $(CURDIR)/$(TOOLS)/bin/mypy

bench: build ## Round trips and throughput, beside the budgets
	$(CARGO) bench --locked --workspace --bench '*'

bench-all: build ## The whole grid of modes, rows, payloads and functions; takes long
	PILLION_BENCH=all $(CARGO) bench --locked --workspace --bench '*'

bench-cpu: build ## CPU time of an engine that is idle, and of one-row calls, watching and asleep
	$(CARGO) build --release --locked --workspace --example cpu_cost
	target/release/examples/cpu_cost $(BINARY)

bench-peers: build ## PyFlink, PySpark, arrow-udf and Daft at the same work; installs them; into docs/benchmarks.md
	$(CARGO) build --release --locked --workspace --example peer
	$(PYTHON) benches/peers/run.py

$(TOOLS)/.done: worker-py/dev-requirements.txt
	$(PYTHON) -m venv --clear $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# Every target does its own set-up: an interpreter, .venv with pinned tools, and plait built into it (scripts/setup.sh).
#     PYTHON=python3.12   the interpreter to make .venv with
#     VENV=DIR            another place for the environment

VENV ?= .venv
export VENV PYTHON

SETUP := @scripts/setup.sh
RUN := @$(VENV)/bin/python

VALGRIND := valgrind -q --error-exitcode=1 --leak-check=full --errors-for-leak-kinds=definite --show-leak-kinds=definite

.DEFAULT_GOAL := help
.PHONY: help demo test soak memcheck bench clean

help: ## This list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: ## Fetch, index, pack and store the standard library's sources: serially, with executors picked by hand, with plait.Pool
	$(SETUP) demo
	$(RUN) examples/demo/run.py

test: ## Every check; CHECK="name ..." for some of them, CHECK=list for their names
	$(SETUP) test frames check
	$(SETUP) --no-build programs || echo "no programs: their tests are skipped"
	$(RUN) scripts/check.py $(CHECK)

soak: ## 10,000 kills, 1,000 pools, 200,000 connections, then kills of pools and of users of shared channels for MINUTES=10 each, and servers for 30: all accounted for
	$(SETUP) test
	$(SETUP) --no-build programs
	$(RUN) -m pytest tests/processes tests/loop -m soak --timeout=3600 -o faulthandler_timeout=3660
	$(RUN) scripts/soak.py --minutes $(or $(MINUTES),10)
	$(RUN) scripts/soak_shared.py --minutes $(or $(MINUTES),10)
	$(RUN) scripts/soak_server.py --minutes $(or $(MINUTES),30)

# Valgrind hides what the raw system calls of rustix look for, so they go through the C library here.
memcheck: export RUSTFLAGS := --cfg rustix_use_libc
memcheck: export CARGO_TARGET_DIR := target/memcheck
memcheck: export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER := $(VALGRIND)
memcheck: export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER := $(VALGRIND)
memcheck: export TERM := dumb
memcheck: ## The block allocator's tests under valgrind, which must be installed
	@cargo test --release -p plait-shm --test arena

bench: ## Measure against other pools, queues, locks and event loops and render the tables; QUICK=1 for a short run that renders nothing
	$(SETUP) bench
	$(RUN) benches/process_pool/run.py $(if $(QUICK),--quick)
	$(RUN) benches/channels/run.py $(if $(QUICK),--quick)
	$(RUN) benches/locks/run.py $(if $(QUICK),--quick)
	$(RUN) benches/thread_pool/run.py $(if $(QUICK),--quick)
	$(RUN) benches/loop/run.py $(if $(QUICK),--quick)
	$(RUN) benches/starvation/run.py $(if $(QUICK),--quick)
	$(RUN) benches/model/run.py $(if $(QUICK),--quick)
	$(RUN) benches/auto/run.py $(if $(QUICK),--quick)
	$(RUN) benches/profile/run.py $(if $(QUICK),--quick)

clean: ## Remove what the other targets made
	rm -rf $(VENV) target python/plait/_core*.so

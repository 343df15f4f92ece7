# Every target does its own set-up: an interpreter, .venv with pinned tools, and plait built into it (scripts/setup.sh).
#     PYTHON=python3.12   the interpreter to make .venv with
#     VENV=DIR            another place for the environment

VENV ?= .venv
export VENV PYTHON

SETUP := @scripts/setup.sh
RUN := @$(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help demo test soak bench clean

help: ## This list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: ## Index the standard library in one process, with ProcessPoolExecutor and with plait
	$(SETUP) demo
	$(RUN) examples/index_source.py

test: ## Every check; CHECK="name ..." for some of them, CHECK=list for their names
	$(SETUP) test arrays check
	$(RUN) scripts/check.py $(CHECK)

soak: ## 10,000 kills, 1,000 pools, then kills, timeouts and cancellations for MINUTES=10: everything accounted for
	$(SETUP) test
	$(RUN) -m pytest tests/processes -m soak --timeout=3600 -o faulthandler_timeout=3660
	$(RUN) scripts/soak.py --minutes $(or $(MINUTES),10)

bench: ## Measure against other pools and render the tables; QUICK=1 for a short run that renders nothing
	$(SETUP) bench
	$(RUN) benches/process_pool/run.py $(if $(QUICK),--quick)
	$(RUN) benches/thread_pool/run.py $(if $(QUICK),--quick)

clean: ## Remove what the other targets made
	rm -rf $(VENV) target python/plait/_core*.so

# Two commands on a fresh machine: `make run`, a small real experiment, and `make test`.
PYTHON ?= python3
VENV ?= .venv
OUTPUT ?= runs/first

.PHONY: install develop run test check chaos tools browser prometheus

# What running needs.
install: $(VENV)/installed

# And what tests, checks and benchmarks need.
develop: $(VENV)/developed

INSTALL = $(PYTHON) -m venv $(VENV) && \
    $(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt

$(VENV)/installed: pyproject.toml constraints.txt
	$(INSTALL) -e .
	touch $@

$(VENV)/developed: pyproject.toml constraints.txt
	$(INSTALL) -e '.[dev]'
	touch $(VENV)/installed $@

# Four seeds on two trainers of two workers, two evaluators, 48 checkpoints a seed: about seven minutes on two cores.
run: install
	$(VENV)/bin/python jobs/run_seeds.py --track tiny --seeds 0-3 --trainers 2 --workers-per-trainer 2 --evaluators 2 \
	    --checkpoints log:48 --output $(OUTPUT)
	$(VENV)/bin/discreteness analyze $(OUTPUT) --figure $(notdir $(OUTPUT)).png
	@echo 'look at every token: $(VENV)/bin/discreteness view $(OUTPUT), then open http://127.0.0.1:8321/'

# Three processes on two cores: tests that start Ray wait more than they work.
# The last line says what was skipped and what brings it; above it pytest's own, and above that the ten slowest.
test: develop
	@$(MAKE) --no-print-directory tools
	$(VENV)/bin/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --durations 10

check: develop
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# 48 faults of 24 kinds in one experiment, then scheduling and Ray's autoscaler; on machines made of namespaces (Linux, root),
# about an hour on two free cores. `CHAOS_SEED=7 make chaos` repeats the choices of one run.
chaos: develop
	$(VENV)/bin/python -m tests.chaos.campaign --rounds 2 $(if $(CHAOS_SEED),--seed $(CHAOS_SEED))
	$(VENV)/bin/python -m tests.chaos.scheduling
	$(VENV)/bin/python -m tests.chaos.autoscaled

# Programs that some tests need. Installed on Debian as root; elsewhere, or without network, a line says what is missing.
tools: browser prometheus

MAY_INSTALL = test "$$(id -u)" = 0 && command -v apt-get > /dev/null && apt-get update -qq

browser:
	@command -v chromium || command -v chromium-headless-shell || command -v chromium-browser \
	    || { $(MAY_INSTALL) && apt-get install -qq --no-install-recommends chromium fonts-dejavu-core; } \
	    || echo 'no Chromium: install the package `chromium`, or the tests that draw pages are skipped'

# Only the programs of the package: installed, it would start a service that listens on all interfaces.
prometheus: develop
	@test -x $(VENV)/bin/prometheus || command -v prometheus \
	    || { $(MAY_INSTALL) && cd $(VENV)/bin && apt-get download -qq prometheus \
	        && dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x --strip-components=3 ./usr/bin/prometheus ./usr/bin/promtool \
	        && rm prometheus_*.deb; } \
	    || echo 'no Prometheus: put `prometheus` and `promtool` on PATH, or the tests of alerts are skipped'

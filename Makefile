# Every target works on a fresh machine with Python 3.11 or newer, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ROWS ?= 5000

# The libraries of `make bench-peers` have wheels for few Python versions, so they have their own environment.
PEER_VENV := .venv-peers
PEER_PYTHON ?= python3.11
PEER_ROWS ?= 100000
RUNS ?= 1
# Airflow has many dependencies, so it has its own environment too.
AIRFLOW_VENV := .venv-airflow
MEMORY ?= 512MB
# The files that the installed package is built from; it uses all others in place. The old kernel is removed first,
# because a build that fails would leave it there.
FORGET_KERNEL := rm -rf build psicli/*/_native*.so
BUILT_FROM := pyproject.toml setup.py $(wildcard psicli/*/native_src/*)

# The slow tests by kind, and what each kind proves.
# a process killed at every hit of every failpoint: nothing is left behind, and the next run is correct
SLICE_kills := tests/faults/test_killed.py -k "every_point or spool or told or reconnects or put_aside"
# the same with resumed tasks, for each party in turn
SLICE_kills-resumed-alice := tests/faults/test_killed.py -k "where_tasks_are_resumed and every_passage and alice"
SLICE_kills-resumed-bob := tests/faults/test_killed.py -k "where_tasks_are_resumed and every_passage and bob"
# two hundred kills at random moments, with and without resuming
SLICE_kills-random := tests/faults/test_killed.py -k two_hundred
# a failure or a full disk at every failpoint: both parties report the first cause
SLICE_failures := tests/faults/test_failing.py
# fifty rounds of four jobs at once, and batches that are ended at any moment
SLICE_batches := tests/faults/test_many_batches.py
# ten years of nights with a batch of each party, most of them with a fault; many tests at once, because most wait
YEARS := 01 02 03 04 05 06 07 08 09 10
$(foreach year,$(YEARS),$(eval SLICE_year-$(year) := tests/faults/test_year.py -k year-$(year) -n 5))
# a network that breaks, is slow or silent, or flips bits; needs root and iproute2
SLICE_links := tests/faults/test_broken_wire.py tests/faults/test_cuts.py
# runs that resume finished bins, and the files that are kept for that
SLICE_resume := tests/process/resume tests/unit/job
# peers that cheat in whole runs, and a hundred thousand damaged messages
SLICE_hostile := tests/hostile/messages
# what the traffic and the time of a run reveal; one test at a time, because times are compared
SLICE_privacy := tests/hostile/privacy -n 0
# the C kernel: constant time, sanitizers, compilers, very many points
SLICE_kernel := tests/kernel tests/unit/ole
# two processes: checks, exits, TLS, many jobs, outputs with all settings
SLICE_processes := tests/process --ignore tests/process/resume --ignore tests/process/clusters
# large files within their memory limit, benchmarks, wheels
SLICE_large := tests/unit/tables tests/unit/outputs tests/project
# a party on a Ray cluster whose actors, nodes, head or service are killed at random moments, and large inputs on it
SLICE_cluster := tests/process/clusters
SLICES := kills kills-resumed-alice kills-resumed-bob kills-random failures batches $(YEARS:%=year-%) links resume hostile privacy kernel processes cluster large
SLICE ?= $(SLICES)

# What a deployment installs, with hashes; and the tools that make it, audit it and list it, in their own environment.
LOCK := requirements.lock
TOOLS := build/tools
DEPLOYED := build/deployed

.PHONY: lock audit sbom parameters
.PHONY: demo demo-cluster test test-airflow test-more test-slow lint format proto docs docs-generate pages clean
.PHONY: bench bench-peers bench-batch bench-cluster bench-end bench-frames bench-many bench-memory bench-network
.PHONY: bench-ole bench-overlap bench-plan bench-resume bench-start bench-wide

demo: $(VENV)/.installed
	PSICLI=$(BIN)/psicli PYTHON=$(BIN)/python sh sample_data/demo.sh

# The same job on a Ray cluster of two nodes, which is started here and ended again; the outputs must be the same.
demo-cluster: $(VENV)/.test-installed
	PYTHONPATH=tests $(BIN)/python -m support.clusters.demo

# A sample of every kind of test, in about six minutes on two cores.
test: $(VENV)/.test-installed
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow and not more"

# The tests that `make test` leaves out: further cases of the same tests, and tests that take longer.
test-more: $(VENV)/.test-installed
	$(BIN)/pytest -n 2 --dist worksteal -m "more and not slow"

# The slow tests, or one SLICE of them. Each slice takes less than half an hour.
test-slow: $(SLICE:%=slow-%)

slow-%: $(VENV)/.test-installed
	$(BIN)/pytest -n 2 --dist worksteal --timeout 1800 -m slow $(SLICE_$*)

# The DAGs of docs/examples in a real Airflow, which is installed first.
test-airflow: $(VENV)/.test-installed $(AIRFLOW_VENV)/.installed
	$(BIN)/pytest --timeout 1800 -m slow tests/process/api/test_airflow.py

lint: $(VENV)/.lint-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.lint-installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The generated code is committed; a test compares it with psi.proto.
proto: $(VENV)/.test-installed
	$(BIN)/python -m grpc_tools.protoc -I psicli/protocol/wire --python_out=psicli/protocol/wire --pyi_out=psicli/protocol/wire psi.proto

# The generated parts of docs/: the job file, the commands and the exit codes. A test compares them with the code.
docs-generate: $(VENV)/.test-installed
	PYTHONPATH=tests $(BIN)/python -m support.docs.generate

# The documentation as a site, in build/site. A link or anchor that leads nowhere is an error.
docs: docs-generate $(VENV)/.docs-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# What the numbers of the protocol rr22 are worth, in bits; it fails if one is worth too little.
parameters: $(VENV)/.test-installed
	PYTHONPATH=tests $(BIN)/python -m parameters

# Sample pages of psicli itself in build/pages, and, with Chromium, pictures of them.
pages: $(VENV)/.test-installed
	PYTHONPATH=tests $(BIN)/python -m support.browser.make

# Two processes on this machine with ROWS rows per party, then the curve backends alone.
bench: $(VENV)/.test-installed
	$(BIN)/python tests/bench/run.py --rows $(ROWS)
	$(BIN)/psicli bench

# The same for other PSI libraries on the same files, in one table. The table names libraries that are not installed.
bench-peers: $(VENV)/.test-installed $(PEER_VENV)/.installed
	PYTHONPATH=tests/bench $(BIN)/python tests/bench/libraries/peers.py --rows $(PEER_ROWS) --runs $(RUNS) $(LINK:%=--link %)

# A hundred small files as tasks of one session, as one task, and as separate runs; also with SPU, if bench-peers has
# installed it.
bench-batch: $(VENV)/.test-installed
	$(BIN)/python tests/bench/modes.py --batch

# A party on one and two Ray nodes of one core each against its own threads; and how many items a second a head forwards.
bench-cluster: $(VENV)/.test-installed
	PYTHONPATH=tests:tests/bench $(BIN)/python -m cluster.nodes
	PYTHONPATH=tests:tests/bench $(BIN)/python -m cluster.forwarding

# Whole runs of a million rows against the kernel's work alone, in turn.
bench-end: $(VENV)/.test-installed
	$(BIN)/python tests/bench/whole/end_to_end.py

# Data frames by `psicli.intersect` against the command line on the same rows.
bench-frames: $(VENV)/.test-installed
	PYTHONPATH=tests/bench $(BIN)/python tests/bench/frames.py

# Many jobs by `psicli batch`, one after another, and all at once.
bench-many: $(VENV)/.test-installed
	$(BIN)/python tests/bench/many.py

# Time, memory and disk space for several sizes (ROWS) within one memory budget (MEMORY).
bench-memory: ROWS = 1000000 2000000 4000000
bench-memory: $(VENV)/.test-installed
	$(BIN)/python tests/bench/memory.py --rows $(ROWS) --memory $(MEMORY)

# Run between two network namespaces, over a slow link and a fast one. Needs root and iproute2.
bench-network: $(VENV)/.test-installed
	$(BIN)/python tests/bench/network.py

# Each function of the kernel of RR22 on each of its CPU paths, and both halves of a whole attempt at a bin.
bench-ole: $(VENV)/.test-installed
	$(BIN)/python tests/bench/ole/kernel.py

# What a run does at the same time, from its traces.
bench-overlap: $(VENV)/.test-installed
	$(BIN)/python tests/bench/overlap.py

# The estimates of `psicli check` against runs, also through a link of 10 Mbit/s, which needs root and iproute2; then
# what the constants of the estimates should be here.
bench-plan: $(VENV)/.test-installed
	PYTHONPATH=tests/bench $(BIN)/python -m planner.estimates
	PYTHONPATH=tests/bench $(BIN)/python -m planner.estimates --constants

# A run that is killed and resumed, and a run whose network is down for a while. The latter needs root and iproute2.
bench-resume: $(VENV)/.test-installed
	$(BIN)/python tests/bench/resume.py

# Small runs against the import of pyarrow and gRPC alone, and the time that each package takes to import.
bench-start: $(VENV)/.test-installed
	$(BIN)/python tests/bench/start/start.py

# Inputs with three columns and with 450.
bench-wide: $(VENV)/.test-installed
	$(BIN)/python tests/bench/wide.py

# The newest releases within the bounds of pyproject.toml, for every Python and platform, and setuptools to build with.
lock: $(TOOLS)/.installed
	echo setuptools | $(TOOLS)/bin/uv pip compile --quiet --universal --upgrade --python-version 3.11 \
	    --generate-hashes --no-header --no-annotate pyproject.toml - --output-file $(LOCK)

# Published advisories about the locked releases. Needs the network; --strict fails if a release cannot be looked up.
audit: $(TOOLS)/.installed
	$(TOOLS)/bin/pip-audit --strict --require-hashes --disable-pip --requirement $(LOCK)

# The software bill of materials of a deployment on this machine (CycloneDX), in dist/.
sbom: $(TOOLS)/.installed
	rm -rf $(DEPLOYED)
	mkdir -p dist
	$(PYTHON) -m venv --without-pip $(DEPLOYED)
	$(TOOLS)/bin/pip --python $(DEPLOYED)/bin/python install --quiet --require-hashes -r $(LOCK)
	$(TOOLS)/bin/pip --python $(DEPLOYED)/bin/python install --quiet --no-deps --no-build-isolation .
	$(TOOLS)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	    --output-file dist/sbom.cdx.json $(DEPLOYED)/bin/python

clean:
	rm -rf $(VENV) $(PEER_VENV) $(AIRFLOW_VENV) psicli/*/*.so build dist demo-out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BUILT_FROM) | $(VENV)/bin/python
	$(FORGET_KERNEL)
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.test-installed: $(BUILT_FROM) | $(VENV)/bin/python
	$(FORGET_KERNEL)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.lint-installed: $(BUILT_FROM) | $(VENV)/bin/python
	$(FORGET_KERNEL)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test,lint]'
	@touch $@ $(VENV)/.installed $(VENV)/.test-installed

$(VENV)/.docs-installed: $(BUILT_FROM) | $(VENV)/bin/python
	$(FORGET_KERNEL)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test,docs]'
	@touch $@ $(VENV)/.installed $(VENV)/.test-installed

$(TOOLS)/.installed:
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet --disable-pip-version-check uv pip-audit cyclonedx-bom
	@touch $@

$(AIRFLOW_VENV)/.installed: $(BUILT_FROM)
	$(PYTHON) -m venv $(AIRFLOW_VENV)
	$(FORGET_KERNEL)
	$(AIRFLOW_VENV)/bin/pip install --quiet --disable-pip-version-check 'apache-airflow>=3,<4' -e .
	@touch $@

$(PEER_VENV)/.installed:
	-$(PEER_PYTHON) -m venv $(PEER_VENV)
	-$(PEER_VENV)/bin/pip install --quiet --disable-pip-version-check openmined-psi==2.0.6
	-$(PEER_VENV)/bin/pip install --quiet --disable-pip-version-check spu==0.9.5 && touch $@

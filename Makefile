# One command each, on a fresh machine with Python 3.11 or newer, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ROWS ?= 5000

# The peers of `make bench-peers` have wheels for few Pythons, hence their own.
PEER_VENV := .venv-peers
PEER_PYTHON ?= python3.11
PEER_ROWS ?= 100000
RUNS ?= 1
MEMORY ?= 512MB
# What the installed package is built from; the rest of it is used where it stands. An old kernel goes first: one that
# cannot be built any more would leave it in place.
FORGET_KERNEL := rm -rf build psicli/curve/_native*.so
BUILT_FROM := pyproject.toml $(wildcard psicli/curve/native_src/*)

# The slow tests by kind, and what each proves.
# a process killed at every passage of every point: nothing is left, and the next run is right
SLICE_kills := tests/faults/test_killed.py -k "every_point or spool or told or reconnects or put_aside"
# the same where tasks are resumed, each party in turn
SLICE_kills-resumed-alice := tests/faults/test_killed.py -k "where_tasks_are_resumed and every_passage and alice"
SLICE_kills-resumed-bob := tests/faults/test_killed.py -k "where_tasks_are_resumed and every_passage and bob"
# two hundred kills at random moments, with resuming and without
SLICE_kills-random := tests/faults/test_killed.py -k two_hundred
# a failure or a full disk at every point: the first cause is told on both sides
SLICE_failures := tests/faults/test_failing.py
# a wire that is cut, slow, silent or flips bits; needs root and iproute2
SLICE_links := tests/faults/test_broken_wire.py tests/faults/test_cuts.py
# runs that go on from what was finished, and what lies on disk meanwhile
SLICE_resume := tests/process/resume tests/unit/job
# peers that cheat, against whole runs, and a hundred thousand damaged messages
SLICE_hostile := tests/hostile/messages
# what the wire and the time of a run tell; one test at a time, since times are compared
SLICE_privacy := tests/hostile/privacy -n 0
# the C kernel: constant time, sanitizers, compilers, very many points
SLICE_kernel := tests/kernel
# two processes: checks, endings, TLS, many jobs, outputs in all settings
SLICE_processes := tests/process --ignore tests/process/resume
# large files within their memory, benches, wheels
SLICE_large := tests/unit/tables tests/project
SLICES := kills kills-resumed-alice kills-resumed-bob kills-random failures links resume hostile privacy kernel processes large
SLICE ?= $(SLICES)

.PHONY: demo test test-more test-slow lint format proto docs docs-generate clean
.PHONY: bench bench-peers bench-batch bench-memory bench-network bench-overlap bench-resume bench-wide

demo: $(VENV)/.installed
	PSICLI=$(BIN)/psicli PYTHON=$(BIN)/python sh sample_data/demo.sh

# A fair sample of every kind of test, in under four minutes on two cores.
test: $(VENV)/.test-installed
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow and not more"

# What `make test` leaves out: mostly other cases of the same tests.
test-more: $(VENV)/.test-installed
	$(BIN)/pytest -n 2 --dist worksteal -m "more and not slow"

# All the rest, or one SLICE of it; each takes less than half an hour.
test-slow: $(SLICE:%=slow-%)

slow-%: $(VENV)/.test-installed
	$(BIN)/pytest -n 2 --dist worksteal --timeout 1800 -m slow $(SLICE_$*)

lint: $(VENV)/.lint-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.lint-installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The generated code is committed; a test holds it against psi.proto.
proto: $(VENV)/.test-installed
	$(BIN)/python -m grpc_tools.protoc -I psicli/protocol/wire --python_out=psicli/protocol/wire --pyi_out=psicli/protocol/wire psi.proto

# The reference of the job file, the commands' help and the table of exit codes in docs/; a test compares them with the code.
docs-generate: $(VENV)/.test-installed
	PYTHONPATH=tests $(BIN)/python -m support.docs.generate

# The documentation as a site, in build/site. A link or anchor that leads nowhere is an error.
docs: docs-generate $(VENV)/.docs-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# Two processes on this machine, ROWS rows a side; then the curve backends by themselves.
bench: $(VENV)/.test-installed
	$(BIN)/python tests/bench/run.py --rows $(ROWS)
	$(BIN)/psicli bench

# The same for other PSI libraries on the same files, in one table; one that is not installed gets a line that says so.
bench-peers: $(VENV)/.test-installed $(PEER_VENV)/.installed
	$(BIN)/python tests/bench/libraries/peers.py --rows $(PEER_ROWS) --runs $(RUNS)

# A hundred small files as tasks of one session, as one task, and as runs of their own; and runs of SPU, where
# bench-peers has installed it.
bench-batch: $(VENV)/.test-installed
	$(BIN)/python tests/bench/modes.py --batch

# Seconds, memory and disk of several sizes (ROWS) within one budget (MEMORY).
bench-memory: ROWS = 1000000 2000000 4000000
bench-memory: $(VENV)/.test-installed
	$(BIN)/python tests/bench/memory.py --rows $(ROWS) --memory $(MEMORY)

# Between two network namespaces, over a slow link and a fast one. Needs root and iproute2.
bench-network: $(VENV)/.test-installed
	$(BIN)/python tests/bench/network.py

# From the traces of a run: what was at work at once.
bench-overlap: $(VENV)/.test-installed
	$(BIN)/python tests/bench/overlap.py

# Killed in the middle and run again, and with the network away for a while. The latter needs root and iproute2.
bench-resume: $(VENV)/.test-installed
	$(BIN)/python tests/bench/resume.py

# Three columns and 450.
bench-wide: $(VENV)/.test-installed
	$(BIN)/python tests/bench/wide.py

clean:
	rm -rf $(VENV) $(PEER_VENV) psicli/curve/*.so build dist demo-out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

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

$(PEER_VENV)/.installed:
	-$(PEER_PYTHON) -m venv $(PEER_VENV)
	-$(PEER_VENV)/bin/pip install --quiet --disable-pip-version-check openmined-psi==2.0.6
	-$(PEER_VENV)/bin/pip install --quiet --disable-pip-version-check spu==0.9.5 && touch $@

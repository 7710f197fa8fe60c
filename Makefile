# Needs git, make, python3 and a package registry; brings uv into .tools/ when it is not on PATH.
UV := $(or $(shell command -v uv 2>/dev/null),.tools/uv/bin/uv)
RUN := $(UV) run --no-sync
# The control plane's and the trainer's locked environment. Bytecode is compiled once, or every process pays 11 s for it.
SYNC := $(UV) sync --frozen --quiet --all-extras --no-extra deepspeed --compile-bytecode

.PHONY: help demo rehearsal test test-long faults faults-real lint benchmarks sync

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

demo: sync ## The main job on loopback: git push a job spec, a LoRA is trained, nothing is left
	$(RUN) pushtrain demo

rehearsal: sync ## A pull request on loopback: init, comment, merge, run, receipt, by the real workflow files
	$(RUN) pushtrain rehearse

# Two workers: much of a test with real processes is waiting. A file stays together, since it shares its simulator.
PYTEST := $(RUN) pytest -n 2 --dist loadfile --no-loadscope-reorder

test: sync ## The tests, in ten minutes on two cores (prints how many ran, and why any was skipped)
	$(PYTEST)

test-long: sync ## The tests that make test leaves out: several GPUs, replays, each method's curve, each limit of a run
	$(PYTEST) -m long

faults: sync ## The proof that no money leaks: N=10000 fault schedules, or one by SEED=17 or REPLAY='{…}'; CLOUD=modal or any
	@PYTHONPATH=tests $(RUN) python -m faults --n $(or $(N),1000) --cloud $(or $(CLOUD),all) $(if $(SEED),--seed $(SEED)) $(if $(REPLAY),--replay '$(REPLAY)')

faults-real: sync ## N=50 schedules with real processes: kill -9, the simulator over HTTP, real git
	@PYTHONPATH=tests $(RUN) python -m faults.real --n $(or $(N),50) --first $(or $(SEED),0)

# Go runs actionlint from its module proxy; on PyPI it is a download at install.
ACTIONLINT := $(or $(shell command -v actionlint 2>/dev/null),$(if $(shell command -v go 2>/dev/null),go run github.com/rhysd/actionlint/cmd/actionlint@v1.7.12))

lint: sync ## ruff, mypy, and over the workflows zizmor and, where it or Go is on PATH, actionlint
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) zizmor --offline --no-config --quiet --persona=auditor .github/workflows
	@$(if $(ACTIONLINT),$(ACTIONLINT),echo "actionlint was not run: neither it nor go is on PATH" >&2)

golden: sync ## Write the golden loss curves anew, after a change that is meant to move them
	PUSHTRAIN_UPDATE_GOLDEN=1 $(RUN) pytest -q -m "long or not long" -k golden tests/test_trainer_tasks.py tests/test_trainer_methods.py

benchmarks: sync ## Every script in benchmarks/; each prints its ratio
	@for script in benchmarks/*.py; do echo "== $$script"; $(RUN) python $$script || exit 1; done

sync: $(UV)
	$(SYNC)

.tools/uv/bin/uv:
	@mkdir -p .tools
	@python3 -m venv .tools/uv 2>/dev/null && .tools/uv/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.8 \
	  || python3 -m pip install --quiet --disable-pip-version-check --upgrade --target .tools/uv uv==0.13.8 \
	  || { echo "make: cannot install uv: python3 here has neither venv nor pip; install uv yourself and run make again" >&2; exit 1; }

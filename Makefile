# hull: `make help` lists the targets. `make demo` and `make test` are all a
# newcomer needs.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo 0.1.0-dev)
COMMIT  ?= $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
PREFIX  ?= /usr/local
DESTDIR ?=

# Tools and test images are kept outside the tree, by content.
export HULL_CACHE ?= $(HOME)/.cache/hull
TOOLS   := $(HULL_CACHE)/tools
GOLANGCI_VERSION := v2.12.2
GOLANGCI := $(TOOLS)/golangci-lint-$(GOLANGCI_VERSION)
# gVisor's runtime is a program of its own: its module is not one of ours.
RUNSC_VERSION := v0.0.0-20260905035102-160fafc42237
RUNSC   := $(TOOLS)/runsc-$(RUNSC_VERSION)-$(shell cat packaging/runsc/* | sha256sum | cut -c1-8)
# docker's build plugin is a program of its own, too, which the tests drive.
BUILDX_VERSION := v0.35.0
BUILDX  := $(TOOLS)/docker-buildx-$(BUILDX_VERSION)
# One cache for each checkout: its findings carry paths, and a finding kept from
# another checkout escapes the exclusions, which go by path.
LINTCACHE = $(HULL_CACHE)/lint/$(shell echo $(CURDIR) | sha256sum | cut -c1-12)

# One set of flags for build, test and lint, so that each dependency is compiled once.
export CGO_ENABLED ?= 0
export GOFLAGS     ?= -trimpath -buildvcs=false

GO      := go
GOBUILD := $(GO) build -trimpath -buildvcs=false
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)
# Where a program begins that has something to do before Go starts: cmd/hull-runc/entry_amd64.s.
ENTRY_hull-runc_amd64 := -E entry
BINS    := $(notdir $(wildcard cmd/hull*))
UNIT    := ./api/... ./cmd/... ./internal/...

# What the machine of `make test` must be able to do: a test whose need is named
# here fails instead of skipping. Empty for a developer without root.
ifeq ($(shell id -u),0)
REQUIRE := root,overlay,userns,netns,nft,mmdebstrap,psql,docker,buildx,bin,runsc,runc
ifeq ($(shell uname -m),x86_64)
REQUIRE := $(REQUIRE),vm
KERNEL  := kernel-debian
endif
endif

.PHONY: help
help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z][a-zA-Z0-9_-]*:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: $(addprefix bin/,$(BINS)) ## Build the binaries into bin/

.PHONY: runsc
runsc: bin/runsc ## gVisor's runtime for --isolation sandbox (a minute and a half, once)

bin/runsc: $(RUNSC)
	@mkdir -p bin && ln -sfn $(RUNSC) $@

$(RUNSC):
	GO=$(GO) packaging/runsc/build $(RUNSC_VERSION) $@

.PHONY: $(addprefix bin/,$(BINS))
$(addprefix bin/,$(BINS)): bin/%:
	@$(GOBUILD) -ldflags "$(LDFLAGS) $(ENTRY_$*_$(shell $(GO) env GOARCH))" -o $@ ./cmd/$*

.PHONY: test
test: setup build runsc testbin $(KERNEL) ## Everything of tiers 0 to 2: installs what is missing, builds, runs
	HULL_BIN=$(CURDIR)/bin HULL_REQUIRE=$${HULL_REQUIRE-$(REQUIRE)} $(GO) test -timeout 20m ./...

.PHONY: unit
unit: ## Tier 0: no root, no network, with the race detector
	CGO_ENABLED=1 $(GO) test -race -short $(UNIT)

.PHONY: test-root
test-root: setup runsc ## Tier 1: tests that need root, in namespaces of their own
	HULL_REQUIRE=$${HULL_REQUIRE-$(REQUIRE)} $(GO) test -timeout 15m -run Root $(UNIT)

.PHONY: e2e
e2e: setup build runsc testbin ## Tier 2: the built binaries, the real docker client, real services
	HULL_BIN=$(CURDIR)/bin HULL_REQUIRE=$${HULL_REQUIRE-$(REQUIRE)} $(GO) test -count=1 -timeout 20m ./test/e2e/... ./test/compat/...

.PHONY: test-vm
test-vm: setup build testbin kernel-debian ## Machines: the driver contract for them, a hundred boots (10 minutes and more)
	HULL_VM=1 HULL_VM_BOOTS=$${HULL_VM_BOOTS-100} HULL_BIN=$(CURDIR)/bin HULL_REQUIRE=vm,root,bin $(GO) test -count=1 -timeout 60m -p 1 -v ./internal/driver/vm ./test/vm

.PHONY: conformance
conformance: build testbin ## Tier 3: OCI runtime-tools beside runc and crun; compat scenarios against hulld and, with HULL_COMPAT_HOST, a reference engine
	HULL_CONFORMANCE=1 HULL_BIN=$(CURDIR)/bin $(GO) test -count=1 -timeout 30m -v -run TestConformance ./test/oci
	HULL_BIN=$(CURDIR)/bin $(GO) test -count=1 -timeout 30m -v ./test/compat/...

.PHONY: crash
crash: build testbin ## Tier 4: kill -9 of the engine and of monitors, in full
	HULL_BIN=$(CURDIR)/bin HULL_CRASH=full $(GO) test -count=1 -timeout 60m -v ./test/crash/...

.PHONY: bench
bench: build runsc testbin ## Tier 5: the numbers of SPECIFICATION.md, into docs/benchmarks.md (needs a quiet machine)
	HULL_BENCH=$${HULL_BENCH-1} HULL_BENCH_OUT=$${HULL_BENCH_OUT-$(CURDIR)/docs} HULL_BIN=$(CURDIR)/bin $(GO) test -count=1 -timeout 60m -v -run Numbers ./test/perf

PEERS := github.com/containerd/containerd/v2/cmd/containerd@v2.4.2 \
	github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2@v2.4.2 \
	github.com/opencontainers/runc@v1.5.2 \
	github.com/moby/moby/v2/cmd/dockerd@v2.0.0-beta.24 \
	github.com/moby/moby/v2/cmd/docker-proxy@v2.0.0-beta.24 \
	github.com/moby/buildkit/cmd/buildkitd@v0.33.1

.PHONY: bench-peers
bench-peers: ## The newest Docker Engine and BuildKit, beside which make bench measures (10 minutes, once)
	@for m in $(PEERS); do echo "$$m"; \
	  tags=; case $$m in *runc@*) export CGO_ENABLED=1; if pkg-config --exists libseccomp; then tags=-tags=seccomp; fi;; *) export CGO_ENABLED=0;; esac; \
	  GOBIN=$(HULL_CACHE)/peers/bin $(GO) install $$tags $$m; done

FUZZTIME ?= 30s
.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (30s)
	@for pkg in $$($(GO) list $(UNIT)); do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "== $$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$pkg; \
	  done; \
	done

.PHONY: lint
lint: $(GOLANGCI) ## golangci-lint, at a pinned version
	GOLANGCI_LINT_CACHE=$(LINTCACHE) $(GOLANGCI) run --allow-parallel-runners ./...

$(GOLANGCI):
	@mkdir -p $(TOOLS)
	GOBIN=$(TOOLS)/build $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	mv $(TOOLS)/build/golangci-lint $@

.PHONY: fmt
fmt: $(GOLANGCI) ## Format the tree
	$(GOLANGCI) fmt ./...

.PHONY: kernel
kernel: ## A guest kernel for --isolation vm, from Debian's source (long, once); prints its path
	@packaging/kernel/build

.PHONY: kernel-debian
kernel-debian: ## Debian's cloud kernel for --isolation vm; prints its path
	@packaging/kernel/debian

.PHONY: full-vm
full-vm: ## The disk of a whole virtual machine with Debian, for hull compare --full-vm (3 minutes, 2 GB, once); prints its path
	@packaging/full-vm

.PHONY: generate
generate: ## Write the generated files again (dependency lists, import table)
	HULL_GENERATE=1 $(GO) test -count=1 -run Generated ./internal/arch

.PHONY: demo
demo: setup build ## From nothing to a running Redis, on an engine of its own
	@$(GOBUILD) -o bin/test/demo ./test/demo && bin/test/demo

.PHONY: testbin
testbin: $(BUILDX) ## The docker client, docker compose (at the version of go.mod) and docker buildx that the tests drive
	@$(GOBUILD) -ldflags "-s -w -X github.com/docker/cli/cli/version.Version=$$($(GO) list -m -f '{{.Version}}' github.com/docker/cli | sed 's/^v//;s/+.*//')" \
	  -o $(HULL_CACHE)/bin/docker github.com/docker/cli/cmd/docker
	@$(GOBUILD) -ldflags "-s -w -X github.com/docker/compose/v5/internal.Version=$$($(GO) list -m -f '{{.Version}}' github.com/docker/compose/v5)" \
	  -o $(HULL_CACHE)/bin/docker-compose github.com/docker/compose/v5/cmd
	@ln -sfn $(BUILDX) $(HULL_CACHE)/bin/docker-buildx

$(BUILDX):
	@mkdir -p $(TOOLS)
	cd / && GOBIN=$(TOOLS)/build-buildx $(GO) install -trimpath -ldflags "-s -w -X github.com/docker/buildx/version.Version=$(BUILDX_VERSION)" github.com/docker/buildx/cmd/buildx@$(BUILDX_VERSION)
	mv $(TOOLS)/build-buildx/buildx $@

.PHONY: images
images: setup ## Make all test images now
	$(GO) run ./test/mkimages all

.PHONY: setup
setup: ## Install the Debian packages that tests and demo need
	@test/setup

.PHONY: install
install: build runsc ## Install binaries, systemd units and completions (DESTDIR, PREFIX)
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/systemd/system
	install -m 755 $(addprefix bin/,$(BINS)) bin/runsc $(DESTDIR)$(PREFIX)/bin/
	for u in packaging/hull.service packaging/hull.socket; do \
	  sed 's|@bindir@|$(PREFIX)/bin|' $$u > $(DESTDIR)$(PREFIX)/lib/systemd/system/$$(basename $$u); done
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	bin/hull completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/hull
	bin/hull completion zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_hull
	bin/hull completion fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/hull.fish

.PHONY: clean
clean: ## Remove what was built here (not the cache outside the tree)
	rm -rf bin

# make test      all tests but the longest, in a few minutes on a new machine
# make test-all  everything, as CI runs it: also lint, data races, other projects' clients and engines, a short soak
# make lint      format, vet, static analysis
# make build     the static binary, dist/weir
# make image     the container image, weir:latest
# make release   what a release consists of, in dist/release: for all platforms, from the tag
# make soak      ten minutes of pulls while everything around the mirror fails, and ten with replicas
# make hostile   two minutes of attacks in all ways at once, beside honest clients
# make bench     the figures of docs/benchmarks.md; with nginx, also those over TLS
# make compare   Weir beside Docker's registry and nginx, for half an hour: prints a table (docs/comparison.md)
# make screenshots  the pictures of docs/pages.md, in Chromium
# make fuzz      a minute of each fuzz target

GO ?= go
# Without grpcnotrace the OTLP exporters bring in html/template, which keeps the
# linker from dropping what is never called: 10 MB.
GOFLAGS_STATIC = -trimpath -tags grpcnotrace -ldflags "-s -w"
# Programs without the race detector are compiled as the mirror is, so that what
# they share with it, such as the standard library, is compiled once.
PLAIN = env CGO_ENABLED=0 GOFLAGS=-trimpath
STATICCHECK = $(PLAIN) $(GO) tool -modfile=tests/tools/go.mod -n staticcheck
# The tests find data races, and their mirrors with them. make test does without: what is
# compiled for it is then shared with the mirror that is shipped, and takes half the time.
RACE ?= -race
BINARY ?= dist/weir
IMAGE ?= weir:latest
FUZZTIME ?= 60s
# Prints what is being compiled and tested, so that no minute passes in silence.
# Built as the tests are, so that the standard library is compiled once.
PROGRESS = $(GO) run -C tests/tools $(RACE) ./progress -C ../..

.PHONY: all build image release deps format vet lint test test-all soak hostile bench compare screenshots fuzz

all: build

build:
	CGO_ENABLED=0 $(GO) build $(GOFLAGS_STATIC) -o $(BINARY) ./cmd/weir

# The image is made FROM scratch and of what lies in dist/ and contrib/docker
# alone, so an engine that can pull nothing can build it. It gets no other file.
image: build
	tar -c dist/weir contrib/docker | DOCKER_BUILDKIT=0 docker build --tag $(IMAGE) --file contrib/docker/Dockerfile -

# The program is a module of its own: its libraries are none of the mirror's.
release:
	rm -rf dist/release
	$(PLAIN) $(GO) build -C tools/release -ldflags=-s -o ../../dist/release-tool .
	dist/release-tool -source . -out dist/release $(RELEASE_FLAGS) -- $(GOFLAGS_STATIC)

deps:
	@tests/deps.sh all

format:
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "not formatted (gofmt -w):"; echo "$$unformatted"; exit 1; fi

# As the tests are compiled, so nothing is compiled a second time.
vet:
	@echo "go vet (the first time, this compiles the standard library and all dependencies)"
	@$(PROGRESS) $(GO) vet $(RACE) ./...

lint: format vet
	$(GO) -C tests/tools vet -race ./...
	$(PLAIN) $(GO) -C tools/release vet ./...
	@echo "the program on other systems"
	@$(GO) run -C tests/tools -race ./crosscheck -C ../.. darwin windows
	@echo "staticcheck (the first time, this compiles it)"
	@staticcheck=$$($(PROGRESS) $(STATICCHECK)) && GOFLAGS=-race $(PROGRESS) $$staticcheck ./...
	@$(PROGRESS) $(GO) mod tidy -diff

# run_tests runs the tests with the given flags. Tests that could not run, or
# were left out, are listed at the end, whether or not the rest passed. Test
# results are not taken from Go's cache: it does not know the files and programs
# that the tests read. Vet is a part of lint. The packages that take longest begin
# first, so that the others run beside them. Most of their tests wait for other
# processes, so four at once suit two processors. Up to three failed tests run again,
# alone, and fail if they fail then. Symbols for a debugger would take a quarter of
# the linker's time.
define run_tests
	@WEIR_MISSING=$$(mktemp); WEIR_LEFT_OUT=$$(mktemp); export WEIR_MISSING WEIR_LEFT_OUT; \
	$(PROGRESS) -again $(GO) test $(RACE) -vet=off -count 1 -parallel 4 -ldflags=-w $(1) ./tests ./tests/clients ./tests/release ./tests/pages ./...; code=$$?; \
	if [ -s "$$WEIR_MISSING" ]; then echo; echo "These tests could not run here:"; sort -u "$$WEIR_MISSING"; fi; \
	if [ -s "$$WEIR_LEFT_OUT" ]; then echo; echo "These tests were left out, and lint and the race detector. make test-all runs everything:"; sort -u "$$WEIR_LEFT_OUT"; fi; \
	rm -f "$$WEIR_MISSING" "$$WEIR_LEFT_OUT"; exit $$code
endef

test: export RACE =
test: export CGO_ENABLED = 0
test: export GOFLAGS = -trimpath -tags=grpcnotrace
test:
	@tests/deps.sh short
	@$(MAKE) --no-print-directory format
	$(call run_tests,-short -timeout 10m)

test-all: deps lint
	$(call run_tests,-timeout 60m)

soak:
	$(GO) test ./tests/soak -count 1 -soak.duration=10m -timeout 40m -v

hostile:
	$(GO) test ./tests/hostile -count 1 -hostile.duration=1m -timeout 10m -v

bench:
	$(GO) run ./tests/bench
	$(GO) test -run '^$$' -bench . -benchmem ./storage/... ./registry ./app ./namespace ./tokencache

compare:
	@tests/deps.sh short
	$(GO) run ./tests/compare

screenshots:
	@tests/deps.sh all
	$(GO) test ./tests/pages -count 1 -run '^TestScreenshots$$' -pages.screenshots='$(CURDIR)/docs/screenshots'

fuzz:
	@set -e; grep -rl --include='*_test.go' '^func Fuzz' . | while read -r file; do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z]*\).*/\1/p' "$$file"); do \
			$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 5x "$$(dirname "$$file")"; \
		done; \
	done

# make test   everything: installs what the tests need where it can, lints, runs all tests
# make build  the static binary, dist/weir
# make image  the container image, weir:latest
# make soak   ten minutes of pulls while everything around the mirror fails
# make bench  the figures of docs/benchmarks.md
# make fuzz   a minute of each fuzz target

GO ?= go
# Without grpcnotrace the OTLP exporters bring in html/template, which keeps the
# linker from dropping what is never called: 10 MB.
GOFLAGS_STATIC = -trimpath -tags grpcnotrace -ldflags "-s -w"
STATICCHECK = $(GO) tool -modfile=tests/tools/go.mod -n staticcheck
IMAGE ?= weir:latest
FUZZTIME ?= 60s

.PHONY: all build image deps lint test unit soak bench fuzz

all: build

build:
	CGO_ENABLED=0 $(GO) build $(GOFLAGS_STATIC) -o dist/weir ./cmd/weir

# The image is made FROM scratch and of what lies in dist/ and contrib/docker
# alone, so an engine that can pull nothing can build it.
image: build
	DOCKER_BUILDKIT=0 docker build --tag $(IMAGE) .

deps:
	@tests/deps.sh

# With the race detector, as the tests: so nothing is compiled a second time.
lint:
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "not formatted (gofmt -w):"; echo "$$unformatted"; exit 1; fi
	$(GO) vet -race ./...
	staticcheck=$$($(STATICCHECK)) && GOFLAGS=-race $$staticcheck ./...
	$(GO) mod tidy -diff

test: deps lint unit

# What could not run is said at the end, whether or not the rest passed. Nothing
# is taken from the cache: it knows no more of the binary than that it is built.
unit:
	@WEIR_MISSING=$$(mktemp); export WEIR_MISSING; \
	$(GO) test -race -count 1 -timeout 15m ./...; code=$$?; \
	if [ -s "$$WEIR_MISSING" ]; then echo; echo "These tests could not run here:"; sort -u "$$WEIR_MISSING"; fi; \
	rm -f "$$WEIR_MISSING"; exit $$code

soak:
	$(GO) test ./tests/soak -count 1 -soak.duration=10m -timeout 20m -v

bench:
	$(GO) run ./tests/bench
	$(GO) test -run '^$$' -bench . -benchmem ./storage ./registry ./namespace ./tokencache

fuzz:
	@set -e; grep -rl --include='*_test.go' '^func Fuzz' . | while read -r file; do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z]*\).*/\1/p' "$$file"); do \
			$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 5x "$$(dirname "$$file")"; \
		done; \
	done

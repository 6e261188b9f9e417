# What people run: "make run" and "make test". The rest are parts of these, and what takes longer.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

.PHONY: run test build lint unit e2e bench soak

# devloop on this repository until Ctrl+C: on the running minikube, or on a bundled node where there is none.
run: build
	test/run

# Everything: about 40 minutes on a fresh machine with two cores, 20 minutes after that.
test: lint unit e2e

build:
	go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/devloop ./cmd/devloop

lint:
	test/lint

unit:
	test/setup
	mkdir -p bin
	go test -race -coverprofile bin/coverage ./...
	go tool cover -func bin/coverage | tail -1

# On a real cluster with the real binary; one part of it: make e2e E2E=platform
e2e: build
	test/e2e/run $(E2E)

# Each figure beside its real alternative in the same run; some of them: make bench BENCH=served
bench: build
	test/bench/run $(BENCH)

# Outside of CI: fuzzing, all unit tests many times over, and longer stories of the loop and of the end-to-end tests.
soak:
	test/soak

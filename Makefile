# What people run: "make run" and "make test". The rest are parts of these, and what takes longer.
export VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

.PHONY: help run test build lint unit e2e bench scale soak dist pictures

help: ## this list
	@sed -n 's/^\([a-z0-9]*\):.*## /make \1	/p' Makefile | expand -t 14

run: build ## devloop on this repository until Ctrl+C: on the running minikube, or on a bundled node where there is none
	@test/run

test: ## lint, unit and e2e: about 40 minutes on a fresh machine with two cores, 20 minutes after that
	@test/all

build: ## bin/devloop
	@test/build

lint: ## the linters
	@test/lint

unit: ## the tests of the packages
	@test/unit

e2e: build ## the whole story on real clusters; one part of it: make e2e E2E=platform
	@test/e2e/run $(E2E)

bench: build ## each figure beside its real alternative in the same run; some of them: make bench BENCH=served
	@test/bench/run $(BENCH)

scale: build ## outside of CI: time, memory and requests of devloop as a platform grows to 100 images, 50 releases and 500 pods
	@test/scale/run

soak: ## outside of CI: fuzzing, all tests longer and many times over, and an hour of edits and faults; one of it: make soak SOAK=platform
	@test/soak $(SOAK)

dist: ## outside of CI: a release as it would be published, in dist/, and checks of all that it consists of
	@test/dist

pictures: build ## outside of CI: the pictures of README and docs anew, from devloop at work on a node of its own
	@test/pictures/run

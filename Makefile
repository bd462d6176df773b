# `make demo` and `make test` each make .venv here and install what they need: the versions and hashes
# of core.lock and test.lock, or with `make clean test LOCK=` the newest versions.
PYTHON ?= python3
LOCK ?= yes
BIN = .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet
PIN = $(BIN)/uv pip compile setup.py --quiet --universal --python-version 3.11 --generate-hashes \
  --no-annotate --custom-compile-command 'make lock'

.PHONY: demo test test-long format lock clean

demo: .venv/core
	$(BIN)/python -m launch.study --config=configs/study.py:quick --workdir=logs/demo

test test-long: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
	  $(if $(filter test-long,$@),-m "")

format: .venv/test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# test.lock has what core.lock has, and the tools of the tests.
lock: .venv/test
	$(PIN) --upgrade --extra test --output-file test.lock
	$(PIN) --constraint test.lock --output-file core.lock

.venv/core: setup.py core.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11: make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv .venv
	$(if $(LOCK),$(INSTALL) --require-hashes --requirement core.lock)
	$(INSTALL) $(if $(LOCK),--no-deps) --editable .
	touch $@

.venv/test: .venv/core test.lock
	$(INSTALL) $(if $(LOCK),--require-hashes --requirement test.lock,--editable '.[test]')
	touch $@

clean:
	rm -rf .venv build *.egg-info

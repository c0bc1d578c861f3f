# The commands of the README. Each sets up .venv and uses it again on the next run.
#   make install     set up .venv with what the notebooks and the command `tll` need
#   make report      run every notebook, redraw figures/, write the pages build/report/index.html
#   make report-pdf  write build/report.pdf from the recorded results
#   make test        lint, unit tests, then nbval: re-run the notebooks and compare with the committed outputs
#   make test-faults kill runs and damage files many more times than `make test` does
#   make reproduce   record the TLL results into data/results/          (TLL_DATA=<folder>)
#   make submission  score test_candidates.csv of a folder               (TLL_DATA=<folder> [METHOD=<name>])
#   make bench       measure speed and memory, write build/bench.json
#   make notebooks   re-run the notebooks in place on the sample, to commit their outputs
#   make sample      draw data/sample again
#   make lock        compile pyproject.toml to requirements.txt          ([UPGRADE=--upgrade])
# PYTHON=<python> makes .venv with that Python; otherwise it is the newest of these:
PYTHONS := 3.13 3.12 3.11
BIN := .venv/bin
INSTALL := $(BIN)/uv pip install --python $(BIN)/python -c requirements.txt -b requirements.txt
export TLL_DATA METHOD
export UV_SYSTEM_CERTS ?= 1
export UV_HTTP_TIMEOUT ?= 180

.PHONY: install report report-pdf test test-faults lint reproduce submission bench notebooks sample lock clean always

install: .venv/ready

report: .venv/ready
	$(BIN)/tll report

report-pdf: .venv/ready
	$(BIN)/tll report --pdf

test: lint
	$(BIN)/tll test

test-faults: .venv/ready-dev
	$(BIN)/python -m pytest tests/faults --volume -n 2 --durations 10

lint: .venv/ready-dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m basedpyright --project pyproject.toml

reproduce: .venv/ready
	$(BIN)/tll reproduce

submission: .venv/ready
	$(BIN)/tll submit

bench: .venv/ready
	$(BIN)/tll bench

notebooks: .venv/ready
	$(BIN)/tll report --in-place --data data/sample

sample: .venv/ready
	$(BIN)/python -m scripts.sample

lock: .venv/ready
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile -q pyproject.toml --all-extras --group dev $(UPGRADE) \
		--universal --python-version 3.11 --fork-strategy fewest --generate-hashes -o requirements.txt

clean:
	rm -rf build

# requirements.txt constrains: what is installed has the version and the hash that it names. Stamps are made last, so an
# interrupted installation is repeated.
.venv/ready: .venv/place requirements.txt pyproject.toml
	$(INSTALL) -e '.[fast,docs]' --group report
	@touch $@

.venv/ready-dev: .venv/ready
	$(INSTALL) -e '.[fast,presets,large,docs]' --group dev
	@touch $@

# Why the present .venv cannot serve; empty if it can, or if there is none.
VERSION := -c 'import sys; print("%d.%d" % sys.version_info[:2])'
WHY := $(shell test -d .venv || exit 0; \
	has=$$($(BIN)/python $(VERSION) 2>/dev/null); \
	wanted=$$($(or $(PYTHON),$(BIN)/python) $(VERSION) 2>/dev/null); \
	place=$$(cat .venv/place 2>/dev/null || pwd -P); \
	if [ -z "$$has" ]; then echo "its Python does not run"; \
	elif ! echo " $(PYTHONS) " | grep -qF " $$has "; then echo "it has Python $$has"; \
	elif [ "$$has" != "$$wanted" ]; then echo "it has Python $$has and PYTHON=$(PYTHON) is asked for"; \
	elif [ "$$place" != "$$(pwd -P)" ]; then echo "it was made in $$place"; fi)

.venv/place: $(if $(WHY),always)
	@for python in $(or $(PYTHON),$(PYTHONS:%=python%)) none; do \
		version=$$($$python $(VERSION) 2>/dev/null) && $$python -c "import ensurepip" 2>/dev/null && break; \
	done; \
	if ! echo " $(PYTHONS) " | grep -qF " $${version:-none} "; then \
		echo "$(or $(PYTHON:%=PYTHON=% cannot be used),No Python found)$${version:+: it has Python $$version}." \
			"This project needs one of Python $(PYTHONS) (with venv). Install one, and if it is not" \
			"on the PATH, name it: make PYTHON=/path/to/python3.13"; exit 1; \
	fi; \
	if [ -n "$(WHY)" ]; then echo "The present .venv is replaced: $(WHY)."; fi; \
	if [ -n "$(WHY)" ] || [ ! -x $(BIN)/python ]; then \
		echo "Making .venv with Python $$version"; $$python -m venv --clear .venv; \
	fi
	@sed -n '/^uv==/,/#/p' requirements.txt > .venv/uv.txt
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --require-hashes -r .venv/uv.txt
	@pwd -P > $@

# The commands of the README. Each sets up .venv by itself and re-uses it on the next run.
#   make report      run every notebook, redraw figures/, write build/report.html
#   make test        unit tests, then nbval: re-run the notebooks and compare with the committed outputs
#   make reproduce   record the TLL results into data/results/          (TLL_DATA=<folder>)
#   make submission  score test_candidates.csv of a folder               (TLL_DATA=<folder> [METHOD=<name>])
#   make bench       measure speed and memory, write build/bench.csv
#   make notebooks   re-run the notebooks in place on the sample, to commit their outputs
#   make sample      draw data/sample again
#   make lock        compile requirements.in to requirements.txt
PYTHON ?= python3.11
BIN := .venv/bin
export TLL_DATA METHOD

.PHONY: report test reproduce submission bench notebooks sample lock lint clean

report: .venv/ready
	$(BIN)/python -m tll_utils.report

test: .venv/ready lint
	$(BIN)/python -m pytest
	TLL_DATA=data/sample TLL_PROGRESS=0 $(BIN)/python -m pytest --nbval --nbval-cell-timeout 600 notebooks

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

reproduce: .venv/ready
	$(BIN)/python -m tll_utils.experiments

submission: .venv/ready
	$(BIN)/python -m tll_utils.submission

bench: .venv/ready
	$(BIN)/python -m tll_utils.bench

notebooks: .venv/ready
	TLL_DATA=data/sample $(BIN)/python -m tll_utils.report --in-place

sample: .venv/ready
	$(BIN)/python -m tll_utils.sample

lock: .venv/ready
	$(BIN)/python -m pip install -q uv
	$(BIN)/uv pip compile --universal --generate-hashes --python-version 3.11 --no-emit-index-url \
		requirements.in -o requirements.txt

# The stamp is made last, so an interrupted set-up is repeated.
.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

clean:
	rm -rf build

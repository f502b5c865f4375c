# `make` lists the targets. Each one that needs the environment prepares it first
# (tools/setup_env.sh --help); doctor looks at the one that is there.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help demo test lint format docs setup doctor clean

export OMP_NUM_THREADS ?= 1
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))

ARGS ?=
SETUP := { tools/setup_env.sh && . build/env.sh; } || exit 1
# Tests of numbers, whose bounds must not be those of one CPU. Trainings, traces and memory have none.
LAYERS := tests/layers --ignore-glob='*_learns.py' --ignore-glob='*_traces.py' \
	--ignore-glob='*triton*' -k 'not memory and not trace and not one_graph and not gradcheck'
WITHOUT = printf '\n%s\n%s\n' "Detectron2 is missing: $$WITHOUT_DETECTRON2" \
	"To get it, mend that and run \`make setup\`; tools/setup_env.sh --help lists the ways."

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Variables: PYTHON=/path/to/python (use that environment), ARGS=... (for pytest or the demo),"
	@echo "           REQUIRE_DETECTRON2=1; all others: tools/setup_env.sh --help"

demo:  ## set up, then train, evaluate and draw on synthetic scenes: minutes on a CPU
	@$(SETUP); \
	if [ -z "$$WITHOUT_DETECTRON2" ]; then exec "$$PY" tools/demo.py $(ARGS); fi; \
	$(WITHOUT); echo "Running examples/without_detectron2.py instead."; \
	"$$PY" examples/without_detectron2.py $(ARGS) && { $(WITHOUT); }

test:  ## set up, then run the tests; ARGS="-k sgrn" is passed on
	@$(SETUP); \
	workers=; if "$$PY" -c 'import xdist' 2>/dev/null; then workers="-n 2"; fi; \
	code=0; "$$PY" -m pytest $$workers $(ARGS) || code=$$?; \
	if [ -z '$(subst ','\'',$(ARGS))' ]; then echo "The layers once more, as on a CPU without AVX:"; \
	ATEN_CPU_CAPABILITY=default "$$PY" -m pytest $$workers $(LAYERS) || code=$$?; fi; \
	if [ -n "$$WITHOUT_DETECTRON2" ]; then $(WITHOUT); fi; exit $$code

lint:  ## ruff and mypy
	@$(SETUP); "$$PY" -m ruff check . && "$$PY" -m ruff format --check . && "$$PY" -m mypy

format:  ## let ruff mend what it can
	@$(SETUP); "$$PY" -m ruff check --fix . && "$$PY" -m ruff format .

docs:  ## the site of the docs, in build/site; needs `pip install -e '.[docs]'`
	@$(SETUP); "$$PY" -m mkdocs build --strict --quiet && echo "Open build/site/index.html in a browser."

setup:  ## only the environment
	@tools/setup_env.sh --retry && . build/env.sh && echo "The interpreter is $$PY"

doctor:  ## what is installed, what is registered, which data sets are found
	@py=$$PYTHON; [ ! -f build/env.sh ] || . build/env.sh; \
	for other in "$$PY" "$${VENV:-.venv}/bin/python" python3 python; do \
	    [ -n "$$py" ] || py=$$(command -v "$$other"); done; \
	exec "$$py" relation_heads/doctor.py

clean:  ## remove build files and caches; keeps .venv, datasets and output
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

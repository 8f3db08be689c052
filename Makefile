# Everything runs in .venv, which is made on first use and remade when the lock or pyproject.toml changes.
# `make` alone prints what each target does.

DATASET ?= mini
EPOCHS ?=
WEIGHTS ?=
# The experiments of mini are small, and two of them on a core each are done sooner than one after the other on both.
# Larger ones fill a machine, or its GPU, one by one.
JOBS ?= $(if $(filter mini,$(DATASET)),$(shell python3 -c 'from tinyclf.utils.environment import usable_cores; print(min(4, usable_cores()))' || echo 1),1)

# Any Python from 3.11 to 3.13 will do: the first of these that fits, or the one given as PYTHON=...
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c $(FITS) >/dev/null 2>&1 && { echo $$python; exit; }; done; echo python3)
FITS := 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'

BIN := .venv/bin
# The last thing that an installation writes: the folder it was made for. None, or another one, and .venv is made anew.
READY := .venv/.ready
ifneq ($(shell $(BIN)/python -c 'print(open("$(READY)").read().strip())' 2>/dev/null),$(CURDIR))
$(shell rm -f $(READY))
endif

.DEFAULT_GOAL := help
.PHONY: help setup report test bench lint docs lab lock clean

help:  ## print this
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "report takes DATASET=mini (the default, synthetic), tiny-imagenet or tiny-imagenet-20, EPOCHS=N,"
	@echo "WEIGHTS=FILE, a state dict that stands in for the ImageNet weights, and JOBS=N, experiments at a time"

setup: $(READY)  ## make .venv with what the lock names (every other target does so when needed)

report: $(READY)  ## run the notebooks on DATASET; leaves the accuracy table and pages in reports/DATASET
	$(BIN)/tinyclf report --dataset "$(DATASET)" --jobs "$(JOBS)" $(if $(EPOCHS),-p "epochs=$(EPOCHS)") $(if $(WEIGHTS),--imagenet "$(WEIGHTS)")

# Two processes for the tests, which often wait, and beside them one for the notebooks, each on one core: 3 goes on from
# what 2 trained, and those from 5 on show what the others left.
test: $(READY)  ## run every test, and every notebook with its default parameters
	@reports=$$(mktemp -d) && trap 'rm -rf "$$reports"' EXIT && trap 'exit 130' INT TERM && \
	export TINYCLF_REPORTS="$$reports" OMP_NUM_THREADS=1 && \
	printf '%s\n' 'tests -n 2 --dist loadfile --no-loadscope-reorder' '--nbval-lax notebooks' | xargs -P 2 -I {} sh -c '$(BIN)/python -m pytest {}'

bench: $(READY)  ## measure loader, training, evaluation and memory beside other ways (10 minutes)
	$(BIN)/tinyclf bench $(if $(filter file,$(origin DATASET)),,--dataset "$(DATASET)")

lint: $(READY)  ## check style (ruff), types (mypy), that imports lead one way, and that notebooks are clean
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/clean_notebooks.py notebooks/*.ipynb

docs: $(READY)  ## write the reference of the library, from its docstrings, to build/docs
	$(BIN)/pdoc --docformat google --output-directory build/docs tinyclf
	@echo "$(CURDIR)/build/docs/index.html"

# Lab saves what one changes. So it opens copies, and what `tinyclf run` and the tests execute stays as it is. A copy that
# is there is never replaced: delete it to have it anew. work/ lies where notebooks/ does, so that relative links hold.
lab: $(READY)  ## open JupyterLab in work/, on copies of the notebooks that are yours to change
	@mkdir -p work && for each in notebooks/*.ipynb; do test -e "work/$${each##*/}" || cp "$$each" work/ || exit; done
	$(BIN)/jupyter lab work

lock: $(READY)  ## write requirements.txt with the newest versions that pyproject.toml admits
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --extra dev --upgrade \
		--no-config --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
		pyproject.toml --output-file requirements.txt

clean:  ## remove .venv and what tools left behind; data and reports stay
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find tinyclf tests notebooks \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

# A .venv that was finished is brought up to date in place; any other is made from scratch.
# uv installs the lock in half a minute where pip takes several, so pip installs only uv. Bytecode is compiled once,
# here: otherwise every kernel that a notebook starts would spend ten seconds on torch alone where Python may not write it.
$(READY): requirements.txt pyproject.toml
	@test -e $@ || $(PYTHON) -c $(FITS) 2>/dev/null || { \
		echo "tinyclf needs Python 3.11, 3.12 or 3.13 with its venv module (on Debian: apt-get install python3-venv);" \
		"$(PYTHON) is `$(PYTHON) --version 2>&1`. Another one: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@test -e $@ || { echo "making .venv, once: some 3 GB to download, and a minute or more"; $(PYTHON) -m venv --clear .venv; }
	@rm -f $@
	sed -n '/^uv==/,/[^\\]$$/p' requirements.txt > .venv/uv.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.txt
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@echo "$(CURDIR)" > $@

# Needs Python 3.10 or later, make and git; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test thorough mutants check docs lowest newest clean

# Train, prune, fine-tune and compare: on synthetic scenes, with ESC10=path on 400 real recordings (fetched there, 40 MB), or with
# DATA=path on any folder in DCASE layout.
# WANDB=1 also leaves an offline W&B run of each network, and says how to upload them.
# ARGS passes further options, such as ARGS="--seeds 5"; `$(BIN)/python -m recipes.quickstart --help` lists them.
quickstart: .venv/installed
	$(BIN)/python -m recipes.quickstart $(if $(DATA),--data "$(DATA)") $(if $(ESC10),--esc10 "$(ESC10)") $(if $(WANDB),--wandb) $(ARGS)

test: .venv/installed
	$(BIN)/python -m pytest -n auto $(ARGS)

# All tests, also slow variants of what others test.
thorough: .venv/installed
	$(BIN)/python -m pytest -n auto -m "" $(ARGS)

# Draws small changes of a file, or of files such as FILE="lightning_cosprune/ranking/*.py", and names those that no test notices.
mutants: .venv/installed
	$(BIN)/python tests/mutants.py "$(FILE)" $(ARGS)

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	rm -rf dist build/wheel-import
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python -m pip install --quiet --no-deps --target build/wheel-import dist/*.whl
	cd build/wheel-import && PYTHONPATH=. ../../$(BIN)/python -c "import lightning_cosprune as package; \
	assert package.__file__.startswith('$(CURDIR)/build/wheel-import'), package.__file__; \
	[getattr(package, name) for name in package.__all__]; print('imported from the wheel:', *package.__all__)"

# The pages go to docs/_build/html; the gallery trains a small network on synthetic scenes.
docs: .venv/installed
	$(BIN)/python -m pip install --quiet --group docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

# The lowest versions that pyproject.toml allows, and the newest that there are, each in an environment of its own. Old releases warn of what
# Python and each other have given up since; that is no error of ours, nor is their quarrel about distutils.
lowest:
	rm -rf build/lowest
	$(PYTHON) -m venv build/lowest
	build/lowest/bin/python -m pip install --quiet "pip>=25.1"
	build/lowest/bin/python .ci/lower_bounds.py viz cli wandb energy > build/lowest/constraints.txt
	build/lowest/bin/python -m pip install --quiet --constraint build/lowest/constraints.txt --group test --editable ".[viz,cli,wandb,energy]"
	SETUPTOOLS_USE_DISTUTILS=stdlib build/lowest/bin/python -m pytest -n auto -W default $(ARGS)

newest:
	rm -rf build/newest
	$(PYTHON) -m venv build/newest
	build/newest/bin/python -m pip install --quiet "pip>=25.1"
	build/newest/bin/python -m pip install --quiet --upgrade --group test --editable ".[viz,cli,tflite,wandb,energy]"
	build/newest/bin/python -m pytest -n auto -m "" $(ARGS)

# The stamp is written last: an interrupted installation is done again, a finished one takes no time.
.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed, found " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "pip>=25.1"
	$(BIN)/python -m pip install --quiet --group pinned --editable .
	touch $@

clean:
	rm -rf .venv build dist runs docs/_build docs/auto_gallery docs/sg_execution_times.rst

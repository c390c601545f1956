# The commands of this project. Each sets itself up in .venv, and needs nothing but python3 (3.11 or newer), make and git.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help reproduce choices table test lab notebooks book lint clean

PYTHON ?= python3
PROFILE ?= auto
SEED ?= 0
JOBS ?= 2
PARAMS ?=
NOTEBOOKS ?=
ARGS ?=
TABLE ?= 2

# The stamps carry the checkout's place: a virtual environment that was moved or copied with its checkout is set up anew.
PLACE := $(shell pwd | cksum | cut -d ' ' -f 1)
READY := .venv/.ready-$(PLACE)
BOOK_READY := .venv/.ready-book-$(PLACE)
PY := .venv/bin/python
comma := ,

# A convenience: files that were downloaded before, in a folder beside the checkout, serve as the mirror (see gmmt fetch --mirror).
ifndef GMMT_MIRROR
ifneq ($(wildcard ../shared/data),)
export GMMT_MIRROR := $(abspath ../shared/data)
endif
endif

help:
	@echo 'make reproduce [PROFILE=auto] [SEED=0] [JOBS=2]'
	@echo '        run every notebook that is missing or stale, JOBS at a time; the results are in runs/'
	@echo '        PROFILE: smoke, cpu, gpu, paper, auto    SEED=0,1,2: three seeds    PARAMS="steps=3": change a parameter of notebooks'
	@echo 'make choices [TABLE=2]  the miniature: try every row of Table 2 with each plan of its grid on validation (hours); 6: on ViTs'
	@echo 'make table [TABLE=2] SEED=0,1  the miniature: train and test all its rows, an hour of one core each; into notebooks/results/'
	@echo 'make test       run the tests, then every notebook against its stored results'
	@echo 'make lab [ARGS="--port 9000"]  open the notebooks in JupyterLab'
	@echo 'make notebooks [NOTEBOOKS="01_noise_schedule"]'
	@echo '        execute the notebooks in place from their text form, notebooks/src'
	@echo 'make book       make a web site of the notebooks: docs/_build/html/index.html'
	@echo 'make lint       check the style of the code'
	@echo 'make clean      remove .venv, runs and whatever was built; downloaded data stays'

reproduce: $(READY)
	@$(PY) -m workflow reproduce --profile='$(PROFILE)' --seeds='$(SEED)' --jobs='$(JOBS)' --params='$(PARAMS)'

choices: $(READY)
	@$(PY) -m workflow reproduce --goal=choices --table='$(TABLE)' --profile='$(PROFILE)' --jobs='$(JOBS)'

table: $(READY)
	@$(PY) -m workflow reproduce --goal=table --table='$(TABLE)' --profile='$(PROFILE)' --seeds='$(SEED)' --jobs='$(JOBS)'

# Two runs, because only the notebooks are under the profile smoke; both are made even if the first fails. Of a notebook the cells tagged
# nbval-check-output are compared, the others must raise no error. Each worker gets its share of the cores.
test: $(READY)
	@status=0; \
	threads=$$(( $$(nproc 2> /dev/null || getconf _NPROCESSORS_ONLN) / $(JOBS) )); [ $$threads -ge 1 ] || threads=1; \
	export OMP_NUM_THREADS=$$threads; \
	echo '== Style'; \
	$(PY) -m ruff check --quiet . || status=$$?; \
	echo '== Tests'; \
	$(PY) -m pytest -n $(JOBS) --dist loadfile tests || status=$$?; \
	if [ -n '$(wildcard notebooks/*.ipynb)' ]; then \
		echo '== Notebooks (profile smoke)'; \
		GMMT_PROFILE=smoke GMMT_RUNS="$$PWD/runs/nbval" GMMT_THREADS=$$threads \
			$(PY) -m pytest -n $(JOBS) --dist loadfile --nbval-lax --nbval-current-env --nbval-cell-timeout=300 notebooks || status=$$?; \
	fi; \
	exit $$status

# The setting lies in .venv: no setting of the user's own is touched.
lab: $(READY)
	@set -- "$$(id -u)" $(ARGS); case "$$*" in \
		0*allow?root*) ;; \
		0 | 0' '*) echo 'You are root, and JupyterLab runs as root only if it is told so: make lab ARGS=--allow-root'; exit 1;; \
	esac
	@mkdir -p .venv/etc/jupyter/labconfig
	@$(PY) -m jupytext_config --settings-file .venv/etc/jupyter/labconfig/default_setting_overrides.json set-default-viewer python
	$(PY) -m jupyterlab --LabApp.default_url=/lab/tree/notebooks $(ARGS)

notebooks: $(READY)
	@$(PY) -m workflow refresh --jobs='$(JOBS)' $(NOTEBOOKS)
	@$(PY) -m workflow.picture

book: $(BOOK_READY)
	@mkdir -p docs/_build/pages
	@$(PY) -m sphinx -q -c docs docs/_build/pages docs/_build/html
	@echo 'The book: docs/_build/html/index.html'

lint: $(READY)
	@$(PY) -m ruff check .

clean:
	rm -rf .venv runs .snakemake docs/_build .pytest_cache .ruff_cache

# --- setting up ---

$(READY): pyproject.toml constraints.txt
	@$(call install,lab$(comma)test)

$(BOOK_READY): $(READY)
	@$(call install,lab$(comma)test$(comma)book)

# $(call install,extras): makes .venv unless a working one is there, installs the package with these extras, and sets the stamp.
define install
set -e; \
if ! $(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then \
	command -v $(PYTHON) > /dev/null || { echo 'There is no $(PYTHON): install Python 3.11 or newer, or name yours: make PYTHON=...'; exit 1; }; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$$($(PYTHON) --version) is too old: install Python 3.11 or newer, or name yours: make PYTHON=..."; exit 1; }; \
	$(PYTHON) -c 'import venv, ensurepip' 2> /dev/null || { \
		echo 'This Python has no venv: install it (Debian and Ubuntu: apt install python3-venv) and try again.'; exit 1; }; \
	$(PYTHON) -m venv --clear .venv; \
fi; \
$(PY) -m pip --version > /dev/null 2>&1 || $(PY) -m ensurepip > /dev/null; \
echo 'Setting up .venv [$(1)]: a minute or two, longer where packages are downloaded for the first time. Log: .venv/install.log'; \
$(PY) -m pip install --disable-pip-version-check --no-input -c constraints.txt -e '.[$(1)]' > .venv/install.log 2>&1 || { \
	tail -n 20 .venv/install.log; echo 'Installing failed; the end of .venv/install.log is above. Mend what it names, then try again.'; exit 1; }; \
touch $@
endef

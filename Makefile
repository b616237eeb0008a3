# Two commands on a fresh machine with Python, git and make:    make demo    make test
# Each makes its own .venv here, installs into it, and does nothing twice. Another Python: PYTHON=python3.12 make test

PYTHON ?= python3
BIN := .venv/bin

# uv trusts a list of certificate authorities of its own; behind an institute's proxy only the machine's list is right.
ifneq ($(wildcard /etc/ssl/certs/ca-certificates.crt),)
export UV_SYSTEM_CERTS ?= 1
endif

# The tensors of the tests are small: a second thread would mostly spin, and on busy cores multiply the CPU time.
test slow referee: export OMP_NUM_THREADS ?= 1

.PHONY: help demo test slow referee publish clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' Makefile | expand -t 16

demo: .venv/.bench ## poses and a map of simulated ribosomes, and demo/demo.png
	@$(BIN)/cryozoo demo

test: .venv/.dev ## ruff, mypy and the tests
	@echo '== ruff check'
	@$(BIN)/ruff check .
	@echo '== ruff format --check'
	@$(BIN)/ruff format --check .
	@echo '== mypy'
	@mkdir -p .typing && ln -sfn .. .typing/cryozoo
	@MYPYPATH=.typing $(BIN)/mypy -p cryozoo
	@echo '== pytest'
	@$(BIN)/python -m pytest -q -n auto --maxprocesses 4

slow: .venv/.dev ## the tests that take minutes
	@$(BIN)/python -m pytest -q -m slow

referee: .venv/.referee ## the tests against escnn, CESPED and RELION, the latter installed with apt-get when that is allowed
	@command -v relion_reconstruct >/dev/null || { $(call apt_install,relion) }
	@$(BIN)/python -m pytest -q -m referee

publish: .venv/.bench ## every embedded encoder to the Hugging Face Hub: make publish OWNER=...
	@$(BIN)/python -m cryozoo.zoo.publish $(OWNER)

clean: ## remove everything the other targets made
	@rm -rf .venv .typing .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist demo *.egg-info
	@find . -name __pycache__ -prune -exec rm -rf {} +

# .venv/.NAME says that the extra NAME of this pyproject.toml is installed. uv needs seconds where pip needs minutes; pip
# is the way out where only pip knows the machine's mirror.
.venv/.bench: extras := sim,bench
.venv/.dev: extras := dev
.venv/.referee: extras := referee
.venv/.bench .venv/.dev .venv/.referee: pyproject.toml | $(BIN)/uv
	@echo "== installing cryozoo[$(extras)] into .venv (torch is large: minutes on a slow line)"
	@$(BIN)/uv pip install --python $(BIN)/python -e '.[$(extras)]' || \
	{ echo '== uv could not; trying pip' && $(BIN)/python -m pip install -e '.[$(extras)]'; }
	@touch $@

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "cryozoo needs Python 3.11 or newer, and $(PYTHON) is: $$($(PYTHON) --version 2>&1)" >&2; \
	  echo "choose another one, for instance: PYTHON=python3.12 make $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  package=$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
	  $(call apt_install,$$package) }
	@echo "== making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

# Install a package of the distribution as root or with a sudo that asks nothing; else say what to type, and stop.
define apt_install
  if [ "$$(id -u)" = 0 ]; then sudo=; else sudo='sudo -n'; fi; \
  apt="$$sudo env DEBIAN_FRONTEND=noninteractive apt-get -q"; echo "== installing $(1) with apt-get"; \
  $$apt install -y --no-install-recommends $(1) || \
  { $$apt update && $$apt install -y --no-install-recommends $(1); } || \
  { echo "$(1) is missing and could not be installed from here; type" >&2; \
    echo "  sudo apt-get update && sudo apt-get install $(1)" >&2; \
    echo "and repeat: make $(MAKECMDGOALS)" >&2; exit 1; };
endef

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu')
SIMULATOR := $(shell find tests/cuda_sim -name '*.cpp' -o -name '*.h' -o -name '*.cu')
TORCH ?= torch torchvision
# They name opencv-python, which wants libGL; the headless build in the `peers` extra serves them as well.
WITHOUT_OPENCV := grad-cam==1.5.7 quantus==0.6.0
# fastai with all it needs is spaCy and twenty packages more; its training loop needs these.
FASTAI := fastai fastcore fastdownload fastprogress fasttransform plum-dispatch beartype python-fasthtml starlette \
	itsdangerous python-multipart
# A trained YOLOv8 in a file of ONNX, for tests and pictures; its own runtime is not needed.
DETECTOR := nudenet==3.4.2
# The Pythons that wheels are made for; one of them is what $(PYTHON) is.
PYTHONS ?= python3.11 python3.12 python3.13
# The oldest release that is promised, and the torchvision that belongs to it.
OLDEST := torch==2.10.0 torchvision==0.25.0
PYTEST := OMP_WAIT_POLICY=passive $(BIN)/python -m pytest
IN_TWO := -n 2 --dist loadfile --no-loadscope-reorder --durations=25 --durations-min=2
export PYTHONUNBUFFERED := 1
# Code that torch.compile generates in tests is kept from run to run.
export TORCHINDUCTOR_CACHE_DIR := $(abspath $(VENV))/inductor

# $(call quietly,what is done,command): one line; what the command prints is shown only where it fails.
quietly = @printf '%s ... ' '$(1)'; started=$$(date +%s); if ($(2)) >$(VENV)/log.txt 2>&1; then \
	echo "$$(( $$(date +%s) - started )) s"; else echo failed; cat $(VENV)/log.txt; exit 1; fi

.DEFAULT_GOAL := help
.PHONY: help demo test test-all oldest bench profile gallery readme docs wheel cuda cuda-sim cuda-mutants soak test-cuda lint format \
	clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/built  ## explain real photographs with a real network; pictures in demo/
	@$(BIN)/fastcam demo --out demo

test: $(VENV)/developing  ## the test suite: every part of the product once
	$(PYTEST) $(IN_TWO)

test-all: $(VENV)/developing  ## whole products of shapes, layouts, dtypes and networks too
	$(PYTEST) $(IN_TWO) -m 'not nvcc and not sanitizer and not soak'

# How many cases of every test run with the oldest PyTorch: one in ONE_IN.
ONE_IN ?= 1
oldest: oldest-environment  ## the ops and the engine with the oldest PyTorch that is promised, in a copy and an environment of their own
	@$(MAKE) --no-print-directory -C build/oldest TORCH='$(OLDEST)' ONE_IN=$(ONE_IN) oldest-tests

.PHONY: oldest-environment
oldest-environment:
	@mkdir -p build/oldest
	@tar -c --exclude=./.venv --exclude=./.git --exclude=./build --exclude='*.so' . | tar -x -C build/oldest
	@$(MAKE) --no-print-directory -C build/oldest TORCH='$(OLDEST)' .venv/installed

.PHONY: oldest-tests
oldest-tests: $(VENV)/testing
	$(BIN)/python -c 'import torch; assert torch.__version__.startswith("2.10."), torch.__version__'
	$(PYTEST) $(IN_TWO) --one-in $(ONE_IN) -m 'not sim and not slow and not nvcc and not sanitizer and not soak' \
		tests/ops tests/engine tests/model tests/graph tests/targets tests/methods tests/test_explainer.py

bench: $(VENV)/developing  ## ops, methods and end to end beside the peers; writes benchmarks/results/
	$(BIN)/python -m pytest benchmarks --benchmark-enable --benchmark-columns=median,iqr,rounds --benchmark-group-by=group
	$(BIN)/python -m benchmarks.ops
	$(BIN)/python -m benchmarks.end_to_end
	$(BIN)/python -m benchmarks.methods
	$(BIN)/python -m benchmarks.prepared
	$(BIN)/python -m benchmarks.dataset
	$(BIN)/python -m benchmarks.dataset_costs
	$(BIN)/python -m benchmarks.large_photographs
	$(BIN)/python -m benchmarks.object_store
	$(BIN)/python -m benchmarks.exported
	$(BIN)/python -m benchmarks.evaluate
	$(BIN)/python -m benchmarks.inspect
	$(BIN)/python -m benchmarks.features
	$(BIN)/python -m benchmarks.detectors
	$(BIN)/python -m benchmarks.interpretable
	$(BIN)/python -m benchmarks.compat

METHOD ?= grad_cam
profile: $(VENV)/developing  ## where the time of one explanation goes; METHOD=layer_cam ARGS="--model resnet50 --batch 8"
	$(BIN)/python -m benchmarks.profile $(METHOD) $(ARGS)

gallery: $(VENV)/developing  ## all methods on one photograph, with what each costs; benchmarks/results/gallery.jpg
	$(BIN)/python -m benchmarks.gallery

readme: $(VENV)/developing  ## renew the tables of the pages
	$(BIN)/python -m benchmarks.readme

docs: $(VENV)/developing  ## build the site from the pages, with every link checked: build/site/index.html
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/python -m mkdocs build --strict --quiet

# The libraries of torch come with torch, whichever is installed.
NOT_BUNDLED := --exclude 'libtorch*.so' --exclude 'libc10*.so' --exclude 'libgomp*'
wheel: $(VENV)/developing  ## dist/fastcam-*.whl for the Python that PYTHON names, tried with the newest and the oldest PyTorch
	rm -rf build/wheel && mkdir -p build/wheel dist
	@$(MAKE) --no-print-directory build/wheel/newest OF=newest TORCH='torch "setuptools>=77" wheel ninja pybind11'
	$(call quietly,building the wheel,FASTCAM_BUILD=1 FASTCAM_CUDA=0 build/wheel/newest/bin/python -m pip wheel . \
		--no-build-isolation --no-deps -w build/wheel && PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair \
		$(NOT_BUNDLED) -w build/wheel/repaired build/wheel/*.whl && cp build/wheel/repaired/*.whl dist)
	@$(MAKE) --no-print-directory smoke OF=newest
	@rm -rf build/wheel/newest
	@$(MAKE) --no-print-directory build/wheel/oldest OF=oldest TORCH='$(firstword $(OLDEST))'
	@$(MAKE) --no-print-directory smoke OF=oldest
	@rm -rf build/wheel/oldest
	@ls -l dist

wheels:  ## a wheel for each of PYTHONS
	rm -rf dist
	@for each in $(PYTHONS); do $(MAKE) --no-print-directory wheel PYTHON=$$each || exit 1; done

.PHONY: smoke wheels
build/wheel/$(OF):
	$(call quietly,installing the $(OF) PyTorch,$(PYTHON) -m venv $@ && $@/bin/python -m pip install $(TORCH))

smoke:
	$(call quietly,installing the wheel with the $(OF) PyTorch,build/wheel/$(OF)/bin/python -m pip install build/wheel/repaired/*.whl)
	cd build/wheel && $(OF)/bin/python -I ../../tests/smoke.py

cuda: $(VENV)/developing  ## compile the CUDA kernels with nvcc and check what came out; needs no GPU
	FASTCAM_CUDA=1 $(BIN)/python setup.py --quiet build_ext --inplace
	$(BIN)/python -m pytest -m nvcc tests/cuda

cuda-sim: $(VENV)/developing  ## the CUDA kernels on the CPU, in other thread orders and under the sanitizers
	$(BIN)/python -m pytest -m sanitizer tests/cuda_sim

soak: $(VENV)/developing  ## 200 kills, 100 power losses, 20,000 damaged images (a quarter of an hour)
	$(BIN)/python -m pytest -m soak tests/dataset

cuda-mutants: $(VENV)/developing  ## plant bugs in the CUDA kernels and tell which check catches each (half an hour)
	$(BIN)/python -m tests.cuda_sim.mutants

test-cuda: $(VENV)/developing  ## every test that runs on a GPU
	$(BIN)/python -m pytest -m cuda

lint: $(VENV)/developing  ## ruff, mypy, clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(SOURCES) $(SIMULATOR)

format: $(VENV)/developing  ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(SOURCES) $(SIMULATOR)

clean:  ## remove what was built
	rm -rf $(VENV) build demo fastcam/*.so *.egg-info

# What is built follows from the sources: a second make has nothing to do. The demo needs less than the tests.
$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fastcam needs Python 3.11 or newer")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(call quietly,installing PyTorch (the first time a few minutes),$(BIN)/python -m pip install --upgrade pip "setuptools>=77" \
		wheel ninja pybind11 && $(BIN)/python -m pip install $(TORCH))
	$(call quietly,installing what the demo needs,FASTCAM_BUILD=0 $(BIN)/python -m pip install --no-build-isolation -e ".[demo]")
	@touch $@

$(VENV)/built: $(VENV)/installed setup.py $(SOURCES)
	$(call quietly,compiling,$(BIN)/python setup.py --quiet build_ext --inplace)
	@touch $@

$(VENV)/testing: $(VENV)/built
	$(call quietly,installing what the tests of the engine need,FASTCAM_BUILD=0 $(BIN)/python -m pip install --no-build-isolation \
		-e ".[test-engine]")
	@touch $@

$(VENV)/developing: $(VENV)/testing
	$(call quietly,installing what the other tests and benchmarks need,FASTCAM_BUILD=0 $(BIN)/python -m pip install \
		--no-build-isolation -e ".[dev]" && $(BIN)/python -m pip install --no-deps $(WITHOUT_OPENCV) $(FASTAI) $(DETECTOR))
	@touch $@

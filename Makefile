PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu')
SIMULATOR := $(shell find tests/cuda_sim -name '*.cpp' -o -name '*.h' -o -name '*.cu')
# grad-cam names opencv-python, which wants libGL; the headless build in the `peers` extra serves it as well.
GRAD_CAM := grad-cam==1.5.7
export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.PHONY: help demo test bench profile gallery readme cuda cuda-sim cuda-mutants soak test-cuda lint format clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/built  ## explain real photographs with a real network; pictures in demo/
	$(BIN)/fastcam demo --out demo

test: $(VENV)/built  ## the whole test suite
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --dist loadfile

bench: $(VENV)/built  ## ops, methods and end to end beside the peers; writes benchmarks/results/
	$(BIN)/python -m pytest benchmarks --benchmark-enable --benchmark-columns=median,iqr,rounds --benchmark-group-by=group
	$(BIN)/python -m benchmarks.ops
	$(BIN)/python -m benchmarks.end_to_end
	$(BIN)/python -m benchmarks.methods
	$(BIN)/python -m benchmarks.prepared
	$(BIN)/python -m benchmarks.dataset
	$(BIN)/python -m benchmarks.compat

METHOD ?= grad_cam
profile: $(VENV)/built  ## where the time of one explanation goes; METHOD=layer_cam ARGS="--model resnet50 --batch 8"
	$(BIN)/python -m benchmarks.profile $(METHOD) $(ARGS)

gallery: $(VENV)/built  ## all methods on one photograph, with what each costs; benchmarks/results/gallery.jpg
	$(BIN)/python -m benchmarks.gallery

readme: $(VENV)/built  ## renew the tables of the pages
	$(BIN)/python -m benchmarks.readme

cuda: $(VENV)/built  ## compile the CUDA kernels with nvcc and check what came out; needs no GPU
	FASTCAM_CUDA=1 $(BIN)/python setup.py --quiet build_ext --inplace
	$(BIN)/python -m pytest -m nvcc tests/cuda

cuda-sim: $(VENV)/built  ## the CUDA kernels on the CPU, in other thread orders and under the sanitizers
	$(BIN)/python -m pytest -m sanitizer tests/cuda_sim

soak: $(VENV)/built  ## 200 kills, 100 power losses, 20,000 damaged images (a quarter of an hour)
	$(BIN)/python -m pytest -m soak tests/dataset

cuda-mutants: $(VENV)/built  ## plant bugs in the CUDA kernels and tell which check catches each (half an hour)
	$(BIN)/python -m tests.cuda_sim.mutants

test-cuda: $(VENV)/built  ## every test that runs on a GPU
	$(BIN)/python -m pytest -m cuda

lint: $(VENV)/built  ## ruff, mypy, clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(SOURCES) $(SIMULATOR)

format: $(VENV)/built  ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(SOURCES) $(SIMULATOR)

clean:  ## remove what was built
	rm -rf $(VENV) build demo fastcam/*.so *.egg-info

# What is built follows from the sources: a second make has nothing to do.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fastcam needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip "setuptools>=77" wheel ninja pybind11
	$(BIN)/python -m pip install --quiet torch torchvision
	FASTCAM_BUILD=0 $(BIN)/python -m pip install --quiet --no-build-isolation -e ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps $(GRAD_CAM)
	touch $@

$(VENV)/built: $(VENV)/installed setup.py $(SOURCES)
	$(BIN)/python setup.py --quiet build_ext --inplace
	touch $@

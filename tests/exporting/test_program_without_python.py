"""The C++ program of csrc/examples explains a photograph like Python, without Python in its process."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import fastcam
from fastcam import render
from tests.support.networks import small_network

SOURCE = Path(__file__).parents[2] / "csrc" / "examples"
SIDE = 64
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The compiled program."""
    folder = tmp_path_factory.mktemp("build")
    torch_folder = Path(torch.__path__[0])
    options = [f"-DTORCH={torch_folder}", "-DCMAKE_CXX_FLAGS=-O0"]
    cmake = str(Path(sys.executable).with_name("cmake"))
    for command in ([cmake, "-S", str(SOURCE), "-B", str(folder), *options], [cmake, "--build", str(folder)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "explain"


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    import skimage.data

    picture = Image.fromarray(skimage.data.chelsea())
    path = tmp_path_factory.mktemp("picture") / "cat.ppm"
    picture.save(path)
    return picture, path


def run(program, *arguments):
    return subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True, check=False)


def pixels_of(picture):
    """(1, 3, SIDE, SIDE) in [0, 1]."""
    array = torch.tensor(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(picture.height, picture.width, 3)
    pixels = array.permute(2, 0, 1)[None].float() / 255
    return F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True).clamp(0, 1)


def normalised(pixels):
    mean, deviation = (
        torch.tensor(each).reshape(1, 3, 1, 1) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    return (pixels - mean) / deviation


@pytest.mark.parametrize("format", ["torchscript", "aoti"])
def test_it_writes_the_overlay(tmp_path, program, photograph, format):
    picture, path = photograph
    model = small_network("mlp")
    images = normalised(pixels_of(picture))
    file = tmp_path / ("explainer.pt2" if format == "aoti" else "explainer.pt")
    fastcam.export(model, images, file, method="grad_cam_pp", format=format)
    for wanted in ([], [1]):
        done = run(program, file, fastcam.library_path(), path, tmp_path / "overlay.ppm", SIDE, *wanted)
        assert done.returncode == 0, done.stderr
        expected = fastcam.explain(model, images, "grad_cam_pp", wanted or None)
        assert done.stdout == f"class {expected.targets.item()}, score {expected.scores.item():.4f}\n"
        shown = (pixels_of(picture)[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        overlay = torch.from_numpy(render.overlay(shown, expected.maps[0].numpy()))
        found = Image.open(tmp_path / "overlay.ppm")
        assert found.size == (SIDE, SIDE)
        written = torch.tensor(bytearray(found.tobytes()), dtype=torch.uint8).reshape(overlay.shape)
        assert (written.int() - overlay.int()).abs().max() <= 2  # a rounding of the map moves it to the next colour
    done = run(program, file, fastcam.library_path(), path, tmp_path / "larger.ppm", SIDE + 1)
    assert done.returncode == 1
    assert "-1" in done.stderr
    assert not (tmp_path / "larger.ppm").exists()


def test_there_is_no_python_in_it(program):
    libraries = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True).stdout
    assert "libtorch_cpu" in libraries
    assert "python" not in libraries.replace(str(Path(torch.__path__[0]).parents[1]), "")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({1: "nowhere.so"}, "nowhere.so"),
        ({2: "truncated.ppm"}, "ends too early"),
        ({2: "text.ppm"}, "no binary PPM file"),
        ({0: "text.pt"}, "explain: "),
    ],
)
def test_mistakes(tmp_path, program, photograph, change, sentence):
    (tmp_path / "truncated.ppm").write_bytes(b"P6\n# a comment\n20 10\n255\nabc")
    (tmp_path / "text.ppm").write_text("not a picture")
    (tmp_path / "text.pt").write_text("not a program")
    arguments = ["text.pt", fastcam.library_path(), photograph[1], tmp_path / "overlay.ppm"]
    for place, name in change.items():
        arguments[place] = tmp_path / name
    done = run(program, *arguments)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "frame #" not in done.stderr
    assert not (tmp_path / "overlay.ppm").exists()


@pytest.mark.slow  # compiles libtorch's headers once more
def test_the_page_is_a_program(tmp_path):
    """What docs/cpp.md shows, in one function, explains images as Python does."""
    model, images = small_network("gap"), torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    fastcam.export(model, images, tmp_path / "explainer.pt", method="layer_cam", format="torchscript")
    page = (SOURCE.parents[1] / "docs" / "cpp.md").read_text()
    whole, drawing = re.findall(r"```cpp\n(.*?)```", page, re.DOTALL)
    includes = "".join(line + "\n" for line in whole.splitlines() if line.startswith("#"))
    body = "".join(line + "\n" for line in (whole + drawing).splitlines() if not line.startswith("#"))
    body = body.replace("/path/of/the/library.so", str(fastcam.library_path()))
    body = body.replace('"explainer.pt"', f'"{tmp_path}/explainer.pt"')
    (tmp_path / "main.cpp").write_text(f"""
{includes}
#include <cstdio>
int main() {{
  const c10::InferenceMode no_graph;
  torch::Tensor images = torch::full({{2, 3, {SIDE}, {SIDE}}}, 0.25);
  images.slice(2, 0, 8) = 0.75;
  auto picture = torch::zeros({{{SIDE}, {SIDE}, 3}}, torch::kByte), colours = torch::full({{256, 3}}, 7, torch::kByte);
  torch::Tensor map = torch::zeros({{{SIDE}, {SIDE}}});
{body}
  std::printf("%.6f %.6f %d", scores[1].item<double>(), maps[1].mean().item<double>(), drawn.max().item<int>());
}}
""")
    folder = Path(torch.__path__[0])
    flags = [f"-I{folder}/include", f"-I{folder}/include/torch/csrc/api/include", f"-L{folder}/lib"]
    flags += [
        f"-Wl,-rpath,{folder}/lib",
        "-ltorch",
        "-ltorch_cpu",
        "-lc10",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
    ]
    command = [
        "c++",
        "-std=c++20",
        "-O0",
        str(tmp_path / "main.cpp"),
        "-o",
        str(tmp_path / "main"),
        "-Wl,--no-as-needed",
        *flags,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    done = run(tmp_path / "main")
    assert done.returncode == 0, done.stderr
    inputs = torch.full((2, 3, SIDE, SIDE), 0.25)
    inputs[:, :, :8] = 0.75
    expected = fastcam.explain(model, inputs, "layer_cam")
    score, mean, most = map(float, done.stdout.split())
    assert score == pytest.approx(float(expected.scores[1]), abs=1e-5)
    assert mean == pytest.approx(float(expected.maps[1].mean()), abs=1e-5)
    assert most == 4  # half of 7, rounded

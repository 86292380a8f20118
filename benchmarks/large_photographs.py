"""What decoding costs where photographs are much larger than the input: ``python -m benchmarks.large_photographs``.

A JPEG file of twelve megapixels (a real photograph, enlarged, with fine noise), from its bytes to the input of 224 x
224, on one thread, by every decoder in turns: the medians over that of torchcodec, and how far the input and the maps
of EfficientNet-Lite0 are from those of the whole photograph.
"""

import argparse
import io

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

import fastcam
from benchmarks.results_io import write
from fastcam.bench.timing import interleave
from fastcam.cli import demo
from fastcam.dataset import Limits
from fastcam.dataset.decode import Decoder, decode_pixels, decode_scaled

SIZE = (4000, 3000)
LIMITS = Limits()


def photograph() -> bytes:
    """Return the file."""
    real = next(iter(demo.photographs().values())).convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)
    noise = np.random.default_rng(0).normal(0, 3, (SIZE[1], SIZE[0], 3))
    buffer = io.BytesIO()
    Image.fromarray((np.asarray(real) + noise).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def loaded(data: bytes, decoder: Decoder) -> Tensor:
    """Return the input that a decoder makes."""
    if decoder == "scaled":
        return demo.PREPROCESSING(decode_scaled(data, LIMITS, demo.PREPROCESSING)[0])
    return demo.PREPROCESSING(decode_pixels(data, LIMITS, decoder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    data, decoders = photograph(), ("torchcodec", "pillow", "scaled")
    torch.set_num_threads(1)
    inputs = torch.stack([loaded(data, decoder) for decoder in decoders])
    levels = (inputs - inputs[0]).abs().flatten(1).mean(1) * 255 * 0.225
    maps = fastcam.explain(demo.efficientnet_lite0(), inputs, "layer_cam").maps
    ranks = torch.corrcoef(maps.flatten(1).argsort(1).argsort(1).double())[0]
    timings = interleave(
        {decoder: lambda decoder=decoder: loaded(data, decoder) for decoder in decoders}, options.rounds
    )
    base = timings["torchcodec"].median
    rows = [
        {
            "decoder": decoder,
            "times_torchcodec": timings[decoder].median / base,
            "levels": float(levels[place]),
            "rank_correlation": float(ranks[place]),
        }
        for place, decoder in enumerate(decoders)
    ]
    write("large_photographs", rows)
    table = Table("decoder", "time / torchcodec", "difference of the input, of 255", "rank correlation of the maps")
    for row in rows:
        table.add_row(str(row["decoder"]), *(f"{row[name]:.4f}" for name in list(row)[1:]))
    Console().print(table)


if __name__ == "__main__":
    main()

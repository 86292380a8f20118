"""How many images a batch has where nobody says it."""

import pytest
import torch

import fastcam
from tests.dataset.small import SETTINGS, contents, folder, network

OPTIONS = {name: value for name, value in SETTINGS.items() if name != "batch_size"}


def prepared(size):
    """A prepared network for which so many images at a time were measured to be the fastest."""
    model = fastcam.prepare(network(), torch.rand(2, 3, 16, 16), precision="fp32", target_layer="features")
    model.batch_size = size
    return model


def run(source, model, out, **options):
    fastcam.dataset.run(source, model, out, **{**OPTIONS, **options})
    return fastcam.dataset.open(out).identity["batch_size"]


def test_of_a_prepared_model_the_fastest(tmp_path):
    source = folder(tmp_path / "in")
    assert run(source, network(), tmp_path / "plain") == 8
    assert run(source, prepared(5), tmp_path / "a", shard_size=20) == 5
    assert run(source, prepared(300), tmp_path / "b", shard_size=20) == 5  # a shard has some batches
    assert run(source, prepared(300), tmp_path / "c", shard_size=3) == 1
    assert run(source, prepared(None), tmp_path / "d") == 8
    assert run(source, prepared(5), tmp_path / "e", batch_size=2) == 2


def test_a_run_goes_on_as_it_began(tmp_path):
    """Measured in another process, the number might be another, and with it the run."""
    source = folder(tmp_path / "in")
    run(source, prepared(2), tmp_path / "whole")
    model = prepared(2)

    def interrupt(progress):
        if progress.commit is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(source, model, tmp_path / "out", shard_size=4, batch_size=3, report=interrupt)
    model.batch_size = 4
    assert run(source, model, tmp_path / "out") == 3
    with pytest.raises(ValueError, match=r"another run: batch_size"):
        run(source, model, tmp_path / "out", batch_size=2)
    run(source, model, tmp_path / "three", batch_size=3)
    assert contents(tmp_path / "out") == contents(tmp_path / "three")

"""Damaged files of weights: loaded where they still fit, else refused in one sentence, whatever the parser raises."""

import io
import pickle

import pytest
import safetensors.torch
import torch
from torch import nn

from fastcam import artefacts
from fastcam.classifiers.weights import load_weights
from tests.support.damage import damaged


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))


def saved(kind):
    state, buffer = small().state_dict(), io.BytesIO()
    if kind == "safetensors":
        return safetensors.torch.save(state)
    if kind == "pickle":
        return pickle.dumps({name: value.tolist() for name, value in state.items()})
    torch.save(state, buffer, _use_new_zipfile_serialization=kind == "zip")
    return buffer.getvalue()


def refusals(load, file, contents):
    """What ``load`` says of every content that it refuses."""
    told = []
    for content in contents:
        file.write_bytes(content)
        try:
            load(file)
        except ValueError as error:
            told.append(str(error))
    return told


def is_sentence(text):
    return text.strip() and "\n" not in text and len(text) < 700


@pytest.mark.parametrize(
    ("kind", "suffix", "count"),
    [
        ("zip", ".pth", 200),
        ("zip", ".ckpt", 50),
        ("legacy", ".pt", 100),
        ("pickle", ".pth", 50),
        ("safetensors", ".safetensors", 100),
    ],
)
def test_damage_is_one_sentence(tmp_path, kind, suffix, count):
    model = small()
    contents = damaged(saved(kind), count, seed=len(kind))
    told = refusals(lambda file: load_weights(model, file), tmp_path / f"w{suffix}", contents)
    assert all(is_sentence(text) and "'w." in text for text in told)
    assert len(told) >= count // 3  # the others differ in a weight or in the padding only


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
def test_damaged_models_are_one_sentence(tmp_path, suffix):
    file, example = tmp_path / f"m{suffix}", (torch.zeros(1, 3),)
    if suffix == ".pt":
        torch.jit.save(torch.jit.trace(small().eval(), example), file)
    else:
        torch.export.save(torch.export.export(small().eval(), example), file)
    told = refusals(lambda file: artefacts.load(file, trust=True), file, list(damaged(file.read_bytes(), 40, seed=1)))
    assert all(is_sentence(text) for text in told)
    assert len(told) >= 13

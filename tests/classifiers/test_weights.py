"""Weights files: what fits is loaded, the rest is refused in one sentence, and no code is run."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fastcam.classifiers.weights import load_weights


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2)).eval()


def materialised():
    model = small_model()
    model(torch.zeros(1, 3, 6, 6))
    return model


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module."])
def test_pth_weights_in_all_their_wrappings(tmp_path, wrap, prefix):
    source, model = materialised(), materialised()
    with torch.no_grad():
        for value in source.parameters():
            value.mul_(2).add_(1)
    torch.save(wrap({prefix + name: value for name, value in source.state_dict().items()}), tmp_path / "w.pth")
    images = torch.randn(2, 3, 6, 6)
    assert not torch.equal(model(images), source(images))
    load_weights(model, tmp_path / "w.pth")
    assert torch.equal(model(images), source(images))


def test_a_prefix_that_is_the_models_own_stays(tmp_path):
    model = nn.ModuleDict({"module": nn.Linear(2, 1)})
    torch.save({"module.weight": torch.full((1, 2), 7.0), "module.bias": torch.zeros(1)}, tmp_path / "w.pth")
    load_weights(model, tmp_path / "w.pth")
    assert model["module"].weight.tolist() == [[7, 7]]


def test_safetensors_weights_without_the_counters(tmp_path):
    source, model = materialised(), materialised()
    nn.init.ones_(source[3].weight)
    kept = {name: value for name, value in source.state_dict().items() if "num_batches" not in name}
    save_file(kept, tmp_path / "w.safetensors")
    load_weights(model, tmp_path / "w.safetensors")
    assert torch.equal(model[3].weight, torch.ones_like(model[3].weight))


def test_weights_that_do_not_fit_are_named_and_change_nothing(tmp_path):
    model = materialised()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = dict(model.state_dict())
    state["extra.weight"] = state.pop("3.weight") + 1
    state["0.weight"] = state["0.weight"] + 1
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"'w.pt' do not fit the model: missing 3.weight; unexpected extra.weight"):
        load_weights(model, tmp_path / "w.pt")
    torch.save({**model.state_dict(), "3.bias": torch.zeros(7)}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"3.bias has shape \(7,\) in the file and \(2,\) in the model"):
        load_weights(model, tmp_path / "w.pt")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_only_the_first_few_keys_are_listed(tmp_path):
    torch.save({f"layer{i}.weight": torch.zeros(1) for i in range(9)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"unexpected layer0.weight, layer1.weight, layer2.weight and 6 more$"):
        load_weights(materialised(), tmp_path / "w.pth")


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (self.marker, "w"))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    marker = tmp_path / "marker"
    torch.save({"state_dict": Malicious(str(marker))}, tmp_path / "evil.pth")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Malicious(str(marker)), protocol=2))
    for name in ("evil.pth", "plain.pt"):
        with pytest.raises(ValueError, match="was not unpickled, since that can run any code"):
            load_weights(materialised(), tmp_path / name)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("w.bin", b"x", "must be a .safetensors, .pth, .pt or .ckpt file, got 'w.bin'"),
        ("w.pth", b"garbage", "is damaged or holds more than tensors"),
        ("w.pth", b"", "'w.pth' is not a readable weights file"),
        ("w.safetensors", b"garbage", "'w.safetensors' is not a readable safetensors file"),
        ("w.pth", None, "there is no weights file"),
    ],
)
def test_unreadable_weights_get_a_sentence(tmp_path, name, content, sentence):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        load_weights(materialised(), tmp_path / name)


def test_a_list_of_tensors_is_no_state_dict(tmp_path):
    torch.save([torch.zeros(2)], tmp_path / "w.pth")
    with pytest.raises(ValueError, match="must hold a state dict, names with tensors, got list"):
        load_weights(materialised(), tmp_path / "w.pth")


@pytest.mark.parametrize("prefix", ["net.", "model.backbone.", "0.", "module.net._orig_mod."])
def test_any_prefix_that_all_names_share_is_removed_from_a_checkpoint(tmp_path, prefix):
    source, model = materialised(), materialised()
    nn.init.normal_(source[3].weight)
    state = {prefix + name: value for name, value in source.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3, "pytorch-lightning_version": "2.6.0"}, tmp_path / "w.ckpt")
    load_weights(model, tmp_path / "w.ckpt")
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in model.state_dict().items())


def test_what_does_not_fit_is_named_without_the_prefix(tmp_path):
    state = {f"net.{name}": value for name, value in materialised().state_dict().items() if name != "3.bias"}
    torch.save(state, tmp_path / "w.ckpt")
    with pytest.raises(ValueError, match=r"'w.ckpt' do not fit the model: missing 3.bias$"):
        load_weights(materialised(), tmp_path / "w.ckpt")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (torch.zeros(2, dtype=torch.complex64), "complex numbers for real ones"),
        (torch.zeros(2, device="meta"), ""),
        (torch.zeros(2).to_sparse(), ""),
    ],
)
def test_values_that_cannot_be_copied_change_nothing(tmp_path, value, reason):
    model = materialised()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.save({**{name: value + 1 for name, value in before.items()}, "3.bias": value}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=rf"3.bias in 'w.pth' cannot be copied into the model: {reason}"):
        load_weights(model, tmp_path / "w.pth")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_names_that_are_no_text_are_refused(tmp_path):
    torch.save({1: torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="names with tensors, got int with Tensor"):
        load_weights(materialised(), tmp_path / "w.pth")

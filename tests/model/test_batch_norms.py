"""What a batch norm does to each channel, whoever wrote it."""

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from fastcam.model import module_kinds
from fastcam.model.batch_norms import affine_of, extra_modules, in_float64, is_batch_norm
from tests.support.conv_net import conv_net, images_for
from tests.support.frozen_norms import FREEZE

PLACE = "stem.1"  # of a batch norm in it


@pytest.mark.parametrize("freeze", FREEZE)
def test_frozen_norms(freeze):
    norm = in_float64(FREEZE[freeze](conv_net()).get_submodule(PLACE))
    x = images_for(count=3).double()[:, :1].expand(-1, len(norm.running_mean), -1, -1)
    affine = affine_of(norm)
    assert not isinstance(norm, nn.BatchNorm2d)
    assert is_batch_norm(norm)
    torch.testing.assert_close(norm(x), x * affine.scale[:, None, None] + affine.shift[:, None, None])
    assert module_kinds.has_channels_second(norm)
    assert not module_kinds.has_token_norm(nn.Sequential(norm))


@pytest.mark.parametrize("options", [{}, {"affine": False}], ids=str)
def test_norms_of_torch(options):
    norm = nn.BatchNorm2d(4, **options).double().eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    x, affine = torch.randn(2, 4, 3, 3, dtype=torch.float64), affine_of(norm)
    torch.testing.assert_close(norm(x), x * affine.scale[:, None, None] + affine.shift[:, None, None])


def test_statistics_of_a_batch_are_none():
    assert affine_of(nn.BatchNorm2d(4)) is None
    assert affine_of(nn.BatchNorm2d(4, track_running_stats=False).eval()) is None


def test_what_runs_after_the_normalization():
    assert [name for name, _ in extra_modules(BatchNormAct2d(4))] == ["drop", "act"]
    assert extra_modules(nn.BatchNorm2d(4)) == []


def test_what_is_none():
    class FrozenBatchNormalizer(nn.Module):
        """No statistics."""

    assert not is_batch_norm(FrozenBatchNormalizer())
    assert not is_batch_norm(nn.GroupNorm(2, 4))

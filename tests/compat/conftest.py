"""What several tests of the package in Captum's place take."""

import pytest
import torch

from tests.compat.captum_calls import Small


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return Small().eval().double()


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 14, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def rows():
    return torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

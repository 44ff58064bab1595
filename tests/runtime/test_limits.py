"""Packed layers and maps whose statistics are beyond what floats hold."""

from __future__ import annotations

import pytest
import torch

from binarize.layers import BinaryConv2d
from binarize.runtime.layer import PackedLayer
from binarize.runtime.lower import lower


@pytest.mark.parametrize("granularity", ["channel", "layer"])
@pytest.mark.parametrize("size", [1, 3])
def test_scales_of_large_maps_are_finite_and_those_of_training(granularity: str, size: int) -> None:
    layer = BinaryConv2d(32, 8, 3, padding=1, bypass=False, method="bidense", granularity=granularity).eval()
    with torch.no_grad():
        layer.quantizer.a.fill_(0.5)
        for number in (2.0, 1e4, 3e38):
            x = torch.randn(2, 32, size, size).sign() * number
            expected = layer(x)
            packed = lower(layer)
            assert isinstance(packed, PackedLayer)
            for got in (packed(x), packed.reference(x)):
                assert torch.isfinite(got).all()
                assert torch.allclose(got, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("granularity", ["channel", "layer"])
def test_what_is_not_a_number_stays_so(granularity: str) -> None:
    layer = BinaryConv2d(32, 8, 3, padding=1, bypass=False, method="bidense", granularity=granularity).eval()
    packed = lower(layer)
    x = torch.randn(2, 32, 3, 3)
    x[1, 5, 0, 0] = float("nan")
    with torch.no_grad():
        for model in (layer, packed):
            assert isinstance(model, torch.nn.Module)
            y = model(x)
            assert torch.isfinite(y[0]).all()
            assert torch.isnan(y[1]).any()

"""Networks that read numbers off tensors while they are built, on the meta device."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from binarize.files import create_timm
from binarize.networks.on_meta import readable_numbers


def test_numbers_of_sequences_are_read_and_tensors_stay_on_meta() -> None:
    with torch.device("meta"), readable_numbers():
        rates = torch.linspace(0, 0.3, 4)
        assert [x.item() for x in rates] == pytest.approx([0, 0.1, 0.2, 0.3])
        assert [x.tolist() for x in rates.split([1, 3])] == [pytest.approx(r) for r in ([0], [0.1, 0.2, 0.3])]
        assert float(rates[-1] * 2) == pytest.approx(0.6)
        widths, depths = torch.unique(torch.tensor([8, 16, 8]), return_counts=True)
        assert (widths.tolist(), depths.tolist()) == ([8, 16], [2, 1])
        assert all(t.is_meta for t in (rates, widths, depths))
        bands = nn.Parameter(torch.arange(3) * 2.0)
    assert bands.is_meta


def test_numbers_that_nobody_has_are_still_refused() -> None:
    with torch.device("meta"), readable_numbers():
        rates = torch.linspace(0, 1, 3)
        unknown = torch.empty(3)
        for value in (unknown, rates + unknown, torch.arange(20_000), rates.add_(unknown), rates):
            with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
                value.tolist()


def test_nothing_is_kept_where_tensors_have_data() -> None:
    with readable_numbers() as mode:
        assert mode is None
        assert isinstance(torch.arange(2), Tensor)


# regnet counts equal widths by `unique`; the others take a rate per block from `linspace`
@pytest.mark.parametrize("name", ["convnext_atto", "hiera_tiny_224", "regnetv_040", "test_vit"])
def test_timm_models(name: str) -> None:
    with torch.device("meta"):
        model = create_timm(name, num_classes=3, drop_path_rate=0.1)
    assert all(p.is_meta for p in model.parameters())

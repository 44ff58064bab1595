"""The channel bypass against values that the authors' implementation computed."""

from __future__ import annotations

import pytest
import torch
from golden_data import assert_near, case_names, load_case

from binarize.functional.bypass import channel_bypass, merge_groups

# Channel pairs on which the authors' implementation raises: those with a single merged channel.
CRASHING = [
    *((2, 1), (2, 3), (2, 5), (3, 1), (3, 4), (3, 7), (4, 1), (4, 5)),
    *((5, 11), (8, 33), (16, 33), (64, 1), (64, 65)),
]


@pytest.mark.parametrize("name", case_names("cfb/"))
def test_agrees_with_the_authors(name: str) -> None:
    case = load_case(name)
    out_channels = int(name.rpartition("_")[2])
    assert_near(channel_bypass(case.x, out_channels), case.y, "images", rtol=1e-12)
    last = channel_bypass(case.x.movedim(1, -1).contiguous(), out_channels, -1)
    assert_near(last.movedim(-1, 1), case.y, "tokens", rtol=1e-12)


@pytest.mark.parametrize(("cin", "cout"), CRASHING)
def test_pairs_on_which_the_authors_fail(cin: int, cout: int) -> None:
    x = torch.randn(2, cin, 3, 4, dtype=torch.double)
    y = channel_bypass(x, cout)
    copies = cout // cin
    merged = [x[:, list(group)].mean(1) for group in merge_groups(cin, cout % cin)]
    expected = torch.cat([x.repeat(1, copies, 1, 1), torch.stack(merged, 1)], 1)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)

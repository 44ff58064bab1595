"""The convention `paper`: how Tables 1 and 4 of BiDense (arXiv 2411.10346) count.

The paper says that Params = binary / 32 + float and OPs = binary / 64 + float. What it counts follows from
the printed figures and, for operations, from the authors' counter (github.com/frickyinn/BiDense, commit
7f66259, models/upernet/test_upernet.py and backbones/test_convnext.py). That script is for the networks that
BiDense is compared with; the numbers per method, and what is counted of BiDense's own blocks, follow from the
printed figures. With the rules below and the slips of that script (`binarize.accounting.paper_slips`) all 15
rows are as printed, parameters and operations, at 480x480 with 151 classes.

This convention reproduces printed numbers; `honest` gives what a network costs.

Parameters
  - Everything in the state dict: parameters, and buffers too (2 C + 1 of a batch norm).
  - The tensors of a module that is called n times count n times.
  - Binary are the weights of binary layers and, in a network that has such layers, the weight of its final
    layer, although it is float.

Operations (in the columns for multiply-accumulates), of any network
  - 2 per multiply-accumulate; convolutions count as if they had one group. With ConvNeXt-Tiny that is 234.1
    of the 288.4 G, for depthwise convolutions that do 1.0 G.
  - Binary are binary layers and, in a network that has such layers, its first and its final layer.
  - A head that works at the resolution of the image is left out (the script stops in front of it): all that
    follows the last layer at a lower resolution. In UPerNet these are 76.9 G.
  - Of a layer whose weights have K bits and activations M > 1, K M times as many, K times as many binary
    parameters, and 2^M - 1 for the quantizer. (No printed figure is of such a network.)
  - A layer that counts as binary, (q + w) Cin per output position, whatever its stride, with q of the
    quantizer: sign 0, a shift 1, redistribution 2, AdaBin 4, DAB 4 (mean, threshold, mean absolute deviation
    and scale, 1 each where the variant has them); w of the scale of the weights: 1, AdaBin 2 (and centre),
    BNN 0. The first and the final layer have q and w of the first binary layer.
  - Normalization 2 per element.
  - Activations, per element: ReLU and other piecewise linear ones 1; BiasPReLU, RPReLU and Maxout 2; sigmoid
    4; GELU and all others 7.
  - Pooling 1 per output element; adaptive pooling of H x W to h x w, floor(H / h) floor(W / w) + 1.
  - Bypass 1 per output element; 1 more if it changes the channels, whether it copies or merges them.
  - 1 per element of a sum of two maps (residuals) and of a product of two tensors (layer scale, gates).
  - Biases of convolutions and interpolation: 0.
"""

from __future__ import annotations

from torch import nn

from binarize.accounting.honest import find_uncounted
from binarize.accounting.paper_ops import add_up, first_binary_layer, list_items
from binarize.accounting.paper_params import count_state
from binarize.accounting.paper_slips import apply_slips
from binarize.accounting.record import Recording
from binarize.accounting.report import LayerCount, Uncounted
from binarize.accounting.tally import Tally


def count_as_paper(
    model: nn.Module, recording: Recording
) -> tuple[tuple[LayerCount, ...], tuple[Uncounted, ...]]:
    """The layers of `model` as counted by this convention, and what could not be counted."""
    tally = Tally(model)
    is_binary_network = first_binary_layer(tally) is not None
    weighted = [e.path for e in recording.events if e.work is not None and e.work.kind in ("conv", "linear")]
    ends = [weighted[0], weighted[-1]] if is_binary_network and weighted else []
    count_state(tally, recording, final=ends[-1] if ends else None)
    add_up(tally, apply_slips(tally, list_items(tally, recording, set(ends))))
    uncounted = find_uncounted(tally, recording)
    tally.add_packed_bytes()
    return tally.layers(), uncounted

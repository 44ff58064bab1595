"""The passes that rewrite a program's graph, in their order. One file is one pass.

A pass is a function of a `ProgramGraph`. It looks for a pattern, checks whether it may be fused (a chance
that it misses is noted with the reason), and rewrites. After each pass the graph is checked and what is not
uses is dropped.
"""

from __future__ import annotations

from collections.abc import Callable

from binarize.runtime.program.graph import ProgramGraph
from binarize.runtime.program.passes.activation import layer_activations, name_activations
from binarize.runtime.program.passes.attention import attention
from binarize.runtime.program.passes.bf16_maps import bf16_maps
from binarize.runtime.program.passes.bf16_weights import bf16_weights
from binarize.runtime.program.passes.bits import bits
from binarize.runtime.program.passes.channel_sums import channel_sums
from binarize.runtime.program.passes.classifier import classifier
from binarize.runtime.program.passes.constants import constants
from binarize.runtime.program.passes.functional import functional
from binarize.runtime.program.passes.norms import norms
from binarize.runtime.program.passes.patches import patches
from binarize.runtime.program.passes.pointwise import pointwise
from binarize.runtime.program.passes.residual import residual
from binarize.runtime.program.passes.resize import resize
from binarize.runtime.program.passes.simplify import simplify
from binarize.runtime.program.passes.squeeze_excite import squeeze_excite
from binarize.runtime.program.passes.stem import stem

Pass = Callable[[ProgramGraph], None]

PASSES: tuple[Pass, ...] = (
    constants,  # first: writes to memory that it made are done then
    functional,  # no other pass has to think of writes
    simplify,  # then nothing stands between an operator and its neighbour that does nothing
    name_activations,  # several small operators become one activation: the next two take it
    stem,  # before `pointwise`, which would take its norm and activation
    patches,  # convolutions that are not stems, before linear layers take their activations
    norms,  # before whatever stands behind a norm
    layer_activations,  # behind the bypass of a layer, in front of a sum
    classifier,  # a tail excludes sums and residuals: it gains more than both
    resize,  # a layer reads the small map
    residual,  # after activations, which stand in front of the sum
    squeeze_excite,  # before `pointwise`, which would take the activations of its layers
    attention,  # before `pointwise`, which would take its scales, biases and masks
    pointwise,  # what elementwise operators are left
    channel_sums,  # which step makes a map is known now
    bits,  # whatever else reads a map is known now
    bf16_maps,  # of the maps that are still stored
    bf16_weights,  # of the linear layers that are still steps
)


def run_passes(program: ProgramGraph) -> None:
    """Run all passes.

    Raises:
        NoProgramError: the graph has writes that no pass can turn into operators without.
    """
    for one in PASSES:
        one(program)
        program.tidy()

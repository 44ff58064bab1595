"""Products of attention in a forward, replaced by calls of a `BinaryAttention`."""

from __future__ import annotations

from torch import fx, nn

from binarize.errors import RewriteError
from binarize.graph.plan import Edit
from binarize.graph.rewrite.module_swaps import reference_of
from binarize.layers import BinaryAttention
from binarize.methods.base import Method


def binarize_attention(graph: fx.Graph, node: fx.Node, edit: Edit, module: nn.Module, method: Method) -> None:
    """Put binary attention where the edit says.

    Args:
        graph: of the module's forward.
        node: the call for the whole, or the product with values.
        edit: of the plan.
        module: the owner, which gets the new module.
        method: gives the quantizers.

    Raises:
        RewriteError: the plan is for another forward or another method.
    """
    swap, recipe = edit.attention, method.attention_recipe()
    if swap is None or recipe is None:
        raise RewriteError(
            f"{edit.owner}.{edit.node}: the plan does not describe binary attention; plan again."
        )
    reference = reference_of(module, "")
    new = BinaryAttention(recipe, swap.shapes).to(reference.device, reference.dtype).train(module.training)
    module.add_module(swap.module, new)
    if not swap.scores:
        _call(graph, node, swap.module)
        return
    scores = next((step for step in graph.nodes if step.name == swap.scores), None)
    if scores is None:
        raise RewriteError(f"{edit.owner}: its forward has no step {swap.scores!r}; plan again.")
    _call(graph, scores, f"{swap.module}.scores")
    _call(graph, node, f"{swap.module}.context")


def _call(graph: fx.Graph, node: fx.Node, name: str) -> None:
    """Call the module of that name with the step's own arguments instead."""
    with graph.inserting_before(node):
        made = graph.call_module(name, node.args, node.kwargs)
    node.replace_all_uses_with(made)
    graph.erase_node(node)

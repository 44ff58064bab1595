"""What a recorded run shows of a module: whether anything but the expected has to do with it."""

from __future__ import annotations

from torch import fx, nn

from binarize.graph.trace.dataflow import Flow


def free(flow: Flow, path: str) -> bool:
    """Whether nothing but calls of the module at `path` has to do with it."""
    return not (flow.has_aliases(path) or flow.is_read(path) or hooked(flow.modules[path]))


def hooked(module: nn.Module) -> bool:
    """Whether hooks of a forward hang on the module."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def in_front(flow: Flow, calls: list[fx.Node]) -> fx.Node | None:
    """Where the input of the only call comes from, if nothing else uses it."""
    source = flow.source(calls[0]) if len(calls) == 1 else None
    return source if source is not None and len(source.users) == 1 else None


def steps(flow: Flow) -> list[fx.Node]:
    """What is done, one after the other."""
    return [node for node in flow.recording.graph.nodes if node.op not in ("get_attr", "placeholder")]

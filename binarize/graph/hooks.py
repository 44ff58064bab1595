"""Hooks of modules that are replaced: they move to the replacement."""

from __future__ import annotations

from torch import nn

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)
_STATE_HOOKS = (
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def has_hooks(module: nn.Module) -> bool:
    """Whether something is called when `module` is, or when a gradient passes it."""
    return any(getattr(module, name, None) for name in _HOOKS)


def has_state_hooks(module: nn.Module) -> bool:
    """Whether something is called when the state of `module` is taken or loaded."""
    return any(getattr(module, name, None) for name in _STATE_HOOKS)


def take_hooks(new: nn.Module, old: nn.Module) -> None:
    """Make `new` call the hooks of `old`, except state dict hooks, which depend on the tensors of `old`."""
    for name in _HOOKS:  # feature extractors and users may have hooks on modules that are replaced
        if getattr(old, name, None):
            getattr(new, name).update(getattr(old, name))
    if old._is_full_backward_hook is not None:  # without it torch calls no backward hook at all
        new._is_full_backward_hook = old._is_full_backward_hook


def without_hooks(module: nn.Module) -> nn.Module:
    """`module`, a shallow copy of another, with hook tables of its own that are empty."""
    for name in (*_HOOKS, *_STATE_HOOKS):
        if name in module.__dict__:
            module.__dict__[name] = type(module.__dict__[name])()
    module._is_full_backward_hook = None
    return module

"""The engine: record a model's run, decide what becomes of each layer (a plan), execute it on a copy."""

from binarize.graph.execute import apply, execute
from binarize.graph.plan import Edit, LayerPlan, Plan, Swap
from binarize.graph.planner import example_size, plan
from binarize.graph.policy import Policy

__all__ = ["Edit", "LayerPlan", "Plan", "Policy", "Swap", "apply", "example_size", "execute", "plan"]

"""The engine: record a model's run, decide what happens to each layer (a plan), execute it on a copy."""

from binarize.graph import old_paths
from binarize.graph.decide.example_run import example_size
from binarize.graph.decide.planner import plan
from binarize.graph.decide.policy import Policy
from binarize.graph.plan import Edit, LayerPlan, Plan, Swap
from binarize.graph.rewrite.execute import apply, execute

__all__ = ["Edit", "LayerPlan", "Plan", "Policy", "Swap", "apply", "example_size", "execute", "plan"]

old_paths.register()

"""Decisions on each layer, norm, activation and sum: from a recording to a plan. No model is changed."""

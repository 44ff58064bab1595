"""Executing a plan: layers replaced, forwards generated again."""

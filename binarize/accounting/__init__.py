"""What a network costs: parameters, bits, multiply-accumulates and bytes, layer by layer."""

from binarize.accounting.report import LayerCount, Summary, Uncounted
from binarize.accounting.summarize import summaries, summary

__all__ = ["LayerCount", "Summary", "Uncounted", "summaries", "summary"]

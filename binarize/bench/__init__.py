"""The speed of a packed network, compared with its float counterpart as torch can run it."""

from binarize.bench.advice import advice, slower_than
from binarize.bench.measure import Bench, Variant, bench
from binarize.bench.picture import picture
from binarize.bench.variants import BASELINES, variants

__all__ = ["BASELINES", "Bench", "Variant", "advice", "bench", "picture", "slower_than", "variants"]

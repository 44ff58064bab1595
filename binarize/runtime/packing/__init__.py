"""From a trained binary layer to a packed one: what it is, its numbers, and its weights as bits."""

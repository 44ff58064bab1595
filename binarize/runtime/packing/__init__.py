"""A trained binary layer as data: what its packed form is, its numbers, and its weights as bits."""

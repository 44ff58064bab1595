"""What becomes of each layer, norm, activation and sum: from a recording to a plan; nothing is changed."""

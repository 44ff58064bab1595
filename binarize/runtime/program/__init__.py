"""A packed network as an explicit program: captured, fused by ordered passes, run on planned memory."""

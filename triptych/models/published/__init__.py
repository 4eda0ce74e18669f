"""Weights as others published them become a checkpoint of ours, read tensor by tensor, never a whole model at once."""

"""Weights of others as the folder of a run."""

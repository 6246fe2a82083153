"""Evaluating runs and exports: once, as a sidecar, metrics, predictions, the report."""

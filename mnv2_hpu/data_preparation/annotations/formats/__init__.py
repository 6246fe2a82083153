"""Readers of the files that annotations, or images, come in."""

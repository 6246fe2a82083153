"""Compares what an export computes of images with what its checkpoint does."""

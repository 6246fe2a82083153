"""Preprocessing (one definition for training, evaluation, serving) and input."""

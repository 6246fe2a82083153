"""Evaluates a whole set of images, each once, and says what was found: by task."""

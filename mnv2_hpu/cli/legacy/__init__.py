"""Flags of the launcher that this project replaces."""

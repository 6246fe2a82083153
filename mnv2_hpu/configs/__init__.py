"""Dataclasses and gin-bindable experiment factories."""

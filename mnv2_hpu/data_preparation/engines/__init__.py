"""Engines that spread a preparation over hosts."""

"""Whether this machine and its packages fit."""

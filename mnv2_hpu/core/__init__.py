"""The trainer and what is checked and said before its first step."""

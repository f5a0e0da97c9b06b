"""Algorithms that more than one script uses."""

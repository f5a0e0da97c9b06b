"""The cores of algorithms that more than one script calls."""

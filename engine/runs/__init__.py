"""A run's folder: what it writes, how it goes on after a stop, on which machine."""

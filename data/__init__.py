"""Images, triggers, and what puts the one into the other.

Imports common alone; data/triggers/encoder.py, a trigger that is a network, imports models.
"""

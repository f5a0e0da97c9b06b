"""Images, triggers, and what puts the one into the other.

Imports common alone; the triggers that are networks (encoder, generated and style in data/triggers/) import models.
"""

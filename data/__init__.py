"""The ground floor: images, triggers, and what puts the one into the other. Imports nothing of the others."""

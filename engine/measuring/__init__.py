"""A model on images: its accuracy, its success rate, and whether its input looks right."""

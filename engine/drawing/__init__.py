"""The pictures that scripts leave."""

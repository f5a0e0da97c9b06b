"""Epochs: their steps and their rates."""

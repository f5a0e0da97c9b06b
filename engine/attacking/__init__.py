"""What attacks share: their flags, images and first stages, and indices into the images that were poisoned."""

"""The middle floor: flags, runs, checkpoints, training and pictures, for every script above it."""

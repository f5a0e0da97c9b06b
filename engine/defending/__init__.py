"""What defenses share: the model under suspicion, the defender's images, and what repairs and detectors leave."""

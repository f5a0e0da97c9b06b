"""What all scripts of one kind share: attacks, what they craft, defenses, detectors and repairs."""

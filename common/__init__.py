"""What every other package may import: errors, files written whole or not at all, locks, and the reading of untrusted
files."""

"""The ground floor: errors, files that are replaced whole, locks, and the one door for strangers' files."""

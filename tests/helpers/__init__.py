"""What several tests ask."""

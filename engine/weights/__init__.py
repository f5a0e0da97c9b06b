"""Networks from files, of this suite and of others, and back."""

"""What a script is called with: its flags, its help, and the one line in which a mistake ends."""

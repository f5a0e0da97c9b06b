"""The cores of attacks and defenses, without flags: what several scripts use, and what would crowd one."""

"""Defenses: a file a method, run as `python -m defenses.<name>`."""
import engine.command_line.quick_help  # noqa: F401 -- before all others, so that --help waits for no PyTorch

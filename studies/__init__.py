"""Questions about several runs, or about a stranger's model: a file a study, run as `python -m studies.<name>`."""
import engine.command_line.quick_help  # noqa: F401 -- before all others, so that --help waits for no PyTorch

"""How every script ends: a mistake in one line, a stop without a traceback."""
import functools
import signal
import sys
import traceback
from pathlib import Path

from common.errors import UserError
from engine.catalogue import BY_MODULE

RUNNING = []  # scripts under way in this process, the innermost last
MAX_LINE = 2000  # letters


def command(main):
    """Wrap `main(argv)`: a UserError or OSError is one line on stderr and exit status 2, Ctrl-C 130, SIGTERM 143.

    Any other exception is our mistake, not the user's, and keeps its traceback; its status is 2 as well, since 1 is
    defenses.strip's for a rejected image.
    """
    @functools.wraps(main)
    def wrapped(argv=None):
        def stop(number, frame):
            raise KeyboardInterrupt(number)
        before = signal.signal(signal.SIGTERM, stop)
        RUNNING.append(module_name(main.__module__))
        try:
            return main(argv)
        except (UserError, OSError) as error:
            print(f"{called()}: error: {shortened(' '.join(describe(error).split()))}", file=sys.stderr)
            raise SystemExit(2) from None
        except Exception as error:
            if is_out_of_memory(error):
                print(f"{called()}: error: {str(error).splitlines()[0]}; take a smaller --batch-size or "
                      "--width", file=sys.stderr)
            else:
                traceback.print_exc()
            raise SystemExit(2) from None
        except KeyboardInterrupt as stopped:
            raise SystemExit(128 + (stopped.args[0] if stopped.args else signal.SIGINT)) from None
        finally:
            RUNNING.pop()
            signal.signal(signal.SIGTERM, before)
    return wrapped


def is_out_of_memory(error):
    """Whether an error is PyTorch's, of a GPU that is full; a script that has not loaded PyTorch need not for that."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def shortened(line):
    """A line of at most MAX_LINE letters: a stranger's file may have names of any length."""
    return line if len(line) <= MAX_LINE else f"{line[:MAX_LINE // 2]} ... {line[-MAX_LINE // 2:]}"


def called():
    """What the user called, for the start of an error: train_backdoor.py, defenses.strip, workflow."""
    name = running()
    return name if "." in name or name not in BY_MODULE else f"{name}.py"


def running():
    """The module of the script that runs, as engine.catalogue has it: train_backdoor, defenses.strip, ..."""
    return RUNNING[-1] if RUNNING else module_name("__main__")


def module_name(module):
    """The name of a module; of __main__ the one that was started."""
    if module != "__main__":
        return module
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).stem


def describe(error):
    """The error in one sentence, without the errno that str() of an OSError begins with."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)

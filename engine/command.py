"""How every script ends: a mistake in one line, a stop without a traceback."""
import functools
import signal
import sys
import traceback
from pathlib import Path

from data.files import UserError

MAX_LINE = 2000  # letters


def command(main):
    """Wrap `main(argv)`: a UserError or OSError is one line on stderr and exit status 2, Ctrl-C 130, SIGTERM 143.

    Any other exception is our mistake, not the user's, and keeps its traceback; its status is 2 as well, since 1 is
    detect_strip.py's for a rejected image.
    """
    @functools.wraps(main)
    def wrapped(argv=None):
        def stop(number, frame):
            raise KeyboardInterrupt(number)
        before = signal.signal(signal.SIGTERM, stop)
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
    """What the user called: the script, or the package whose __main__.py it is."""
    path = Path(sys.argv[0])
    return path.parent.name if path.name == "__main__.py" else path.name


def describe(error):
    """The error in one sentence, without the errno that str() of an OSError begins with."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)

"""How every script ends: a user's mistake as one line, a stop without a traceback."""
import functools
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from common.errors import UserError
from engine.catalogue import BY_MODULE

RUNNING = []  # the scripts that run in this process, the innermost last
FLAGS = {}  # {script: all options of its parser}, of the scripts that this process has run
MAX_LINE = 2000  # characters


def command(main: Callable) -> Callable:
    """Wrap `main(argv)`: a UserError or OSError is one line on stderr and exit status 2, Ctrl-C 130, SIGTERM 143.

    Any other exception is a bug of the suite and keeps its traceback. Its status is 2 as well, since 1 is the status of
    defenses.strip for a rejected image.
    """
    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None):
        def stop(number: int, frame: FrameType | None):
            raise KeyboardInterrupt(number)
        before = signal.signal(signal.SIGTERM, stop)
        RUNNING.append(module_name(main.__module__))
        try:
            return main(argv)
        except (UserError, OSError) as error:
            print(f"{program_name()}: error: {shortened(' '.join(error_text(error).split()))}", file=sys.stderr)
            raise SystemExit(2) from None
        except Exception as error:
            if is_out_of_memory(error):
                print(f"{program_name()}: error: {str(error).splitlines()[0]}; choose {less_memory()}",
                      file=sys.stderr)
            else:
                traceback.print_exc()
            raise SystemExit(2) from None
        except KeyboardInterrupt as stopped:
            raise SystemExit(128 + (stopped.args[0] if stopped.args else signal.SIGINT)) from None
        finally:
            RUNNING.pop()
            signal.signal(signal.SIGTERM, before)
    return wrapped


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU's memory is full. Does not load PyTorch for a script that has not."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def less_memory() -> str:
    """What to choose in the running script, by the flags that it has, so that it takes less of a GPU's memory."""
    smaller = [flag for flag in ("--batch-size", "--starts") if flag in FLAGS.get(running(), ())]
    return f"a smaller {' or '.join(smaller)}, or --device cpu" if smaller else "--device cpu"


def shortened(line: str) -> str:
    """The line, cut in its middle to MAX_LINE characters: an untrusted file may hold names of any length."""
    return line if len(line) <= MAX_LINE else f"{line[:MAX_LINE // 2]} ... {line[-MAX_LINE // 2:]}"


def program_name() -> str:
    """The name of the running script at the start of an error: train_backdoor.py, defenses.strip, workflow."""
    name = running()
    return name if "." in name or name not in BY_MODULE else f"{name}.py"


def running() -> str:
    """The module of the running script as in engine.catalogue: train_backdoor, defenses.strip, ..."""
    return RUNNING[-1] if RUNNING else module_name("__main__")


def module_name(module: str) -> str:
    """The name of a module; for __main__ the name of the module that was started."""
    if module != "__main__":
        return module
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).stem


def error_text(error: BaseException) -> str:
    """An error in one sentence, without the errno at the start of an OSError's str()."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)

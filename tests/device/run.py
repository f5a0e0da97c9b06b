"""Run a script on the pretend GPU and print at which lines a GPU would have been waited for.

    python tests/device/run.py train_backdoor.py --dataset digits --device cuda
    python tests/device/run.py -m reporting.summary output/badnets
"""
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(words):
    """Run `script.py flags...` or `-m module flags...` as Python would, inside the pretense."""
    is_module = words[0] == "-m"
    sys.argv = words[is_module:]
    if is_module:
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(words[0], run_name="__main__")


def main():
    sys.path[0] = str(ROOT / "tests")  # in place of this file's own folder
    sys.path.insert(0, str(ROOT))
    from device.pretend import pretend
    with pretend() as counts:
        run(sys.argv[1:])
    for line, times in counts.waits.most_common():
        print(f"{times:8} {line}", file=sys.stderr)


if __name__ == "__main__":
    main()

"""A stand-in for a script: python gpu_fake_job.py FOLDER SECONDS STATUS [deaf].

Notes each call in FOLDER/calls, sleeps, writes results.json and ends with STATUS. SIGTERM makes it save and end, after
which the next call sleeps no more; a deaf one takes no notice of it.
"""
import signal
import sys
import time
from pathlib import Path

folder, seconds, status = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])


def stop(number, frame):
    if "deaf" not in sys.argv:
        (folder / "saved").touch()
        sys.exit(143)


signal.signal(signal.SIGTERM, stop)
folder.mkdir(parents=True, exist_ok=True)
with open(folder / "calls", "a") as file:
    file.write("call ")
time.sleep(0 if (folder / "saved").exists() else seconds)
if not status:
    (folder / "results.json").write_text('{"acc": {"value": 0.5}, "asr": null}')
sys.exit(status)

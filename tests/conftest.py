"""Small image sets and folders, and two ways of running a script: in this process and as a user would."""
import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.images import write_noise
from helpers.paths import DEVICE, ENCODER, HIDDEN, LEARNING, ROOT, SMALL

from data.image_set import ImageSet
from engine.learning import training
from engine.runs import machine

# One thread, here and in the scripts that tests start: PyTorch 2.15's convolutions on several threads corrupt memory
# when a network of 8 channels or fewer trains on an odd number of images, which only tests do.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


# What a test takes that trains a network or starts a program; a test of one of these is `slow` by itself.
SLOW = {"small_run", "masked", "learned_run", "learned_at_32", "encoder_run", "made", "script",
        "unbroken", "attacked", "browser", "extended", "exported", "stored", "sized_run",
        "stopped_in_unlearning"}


def pytest_collection_modifyitems(items):
    """Mark the tests that take one of SLOW."""
    for item in items:
        if SLOW.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def the_log_reaches_pytest():
    """A Run keeps its log from other handlers for good; a test of the same process that looks at one would see none."""
    logging.getLogger("backdoor").propagate = True


@pytest.fixture(autouse=True)
def convolutions_are_onednns_again():
    """machine.spare_narrow leaves them for the rest of the process."""
    yield
    torch.backends.mkldnn.enabled = True


@pytest.fixture(autouse=True, scope="session")
def auto_is_the_tests_device():
    real = machine.find_device
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "find_device", lambda name: real(DEVICE if name == "auto" else name))
        yield


@pytest.fixture
def images():
    """40 random images of 4 classes, 10 each."""
    rng = np.random.default_rng(1)
    return ImageSet(rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8), np.arange(40) % 4, tuple("abcd"), "random")


@pytest.fixture
def image_folder(tmp_path):
    """Make an image folder; returns its path. Each image is noise of its own, so that none equals another."""
    def make(classes=("cat", "dog"), count=6, size=(32, 32), suffix=".png", name="pictures"):
        write_noise(tmp_path / name, classes, count, size, suffix)
        return tmp_path / name
    return make


@pytest.fixture
def refused(capsys):
    """Call main(argv), expect exit status 2, and return the one line that it left on stderr."""
    def call(main, *argv):
        with pytest.raises(SystemExit) as stopped:
            main([str(arg) for arg in argv])
        error = capsys.readouterr().err
        assert stopped.value.code == 2, error
        assert error.endswith("\n") and error.count("\n") == 1, f"expected one line, got:\n{error}"
        return error
    return call


@pytest.fixture(scope="session")
def script():
    """Run a script as a user does, from the repository's root; returns the finished process."""
    def run(*command, check=True, **options):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **HIDDEN}
        done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True,
                              env=environment, timeout=280, **options)
        assert not check or done.returncode == 0, done.stderr
        return done
    return run


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """The folder of a finished one-epoch BadNets run on digits, 16 pixels a side, at width 4."""
    from train_backdoor import main
    folder = tmp_path_factory.mktemp("small") / "badnets"
    main([*SMALL, "--poison-rate", "0.1", "--output-dir", str(folder)])
    return folder


@pytest.fixture(scope="session")
def masked(small_run, tmp_path_factory):
    """The folder of a short generate_mask.py run on small_run."""
    from generate_mask import main
    folder = tmp_path_factory.mktemp("anp") / "anp"
    main(["--checkpoint", str(small_run / "model_last.th"), "--dataset", "digits", "--val-frac", "0.05", "--nb-iter",
          "5", "--print-every", "2", "--batch-size", "32", "--output-dir", str(folder)])
    return folder


@pytest.fixture(scope="session")
def learned_run(tmp_path_factory):
    """The folder of a Blend run on digits that is long enough to learn them, and the trigger."""
    from train_backdoor import main
    folder = tmp_path_factory.mktemp("learned") / "blend"
    main([*LEARNING, "--poison-type", "blend", "--output-dir", str(folder)])
    results = json.loads((folder / "results.json").read_text())
    assert results["acc"]["value"] > 0.8 and results["asr"]["value"] > 0.8
    return folder


@pytest.fixture
def stop_at_test(monkeypatch):
    """stop_at_test(script, n): from now on the (n+1)th test of `script`, a module, or of its training is Ctrl-C."""
    real = training.evaluate

    def stop(script, tests):
        left = [None] * tests

        def evaluate_or_stop(*args):
            if not left:
                raise KeyboardInterrupt
            left.pop()
            return real(*args)
        for module in filter(lambda module: hasattr(module, "evaluate"), (script, training)):  # who calls it
            monkeypatch.setattr(module, "evaluate", evaluate_or_stop)
    return stop


@pytest.fixture(scope="session")
def encoder_run(small_run, tmp_path_factory):
    """The folder of a short attacks.issba_encoder run on digits: 4 bits, which it learns to hide and to read."""
    from attacks.issba_encoder import main
    folder = tmp_path_factory.mktemp("issba") / "encoder"
    main([*ENCODER, "--checkpoint", str(small_run / "model_last.th"), "--output-dir", str(folder)])
    return folder


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """{name: path} of what the short runs of helpers/runs.py read, as two that differ."""
    from helpers.runs import make_inputs
    return make_inputs(tmp_path_factory.mktemp("made"))

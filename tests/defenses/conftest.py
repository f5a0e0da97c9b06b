"""What the tests of Neural Cleanse and of its unlearning share."""
import pytest
from helpers.searches import NORMS, searches_with

from defenses import neural_cleanse


@pytest.fixture
def detected(small_run, tmp_path, monkeypatch):
    """A run of Neural Cleanse over three seeds; the first search found nothing odd, the others NORMS."""
    seeds = iter([[61.0, *NORMS[1:]], NORMS, NORMS])
    monkeypatch.setattr(neural_cleanse, "reverse_triggers", lambda *args: searches_with(next(seeds), 0))
    neural_cleanse.main(["--checkpoint", str(small_run / "model_last.th"), "--dataset", "digits", "--output-dir",
                         str(tmp_path / "nc")])
    return tmp_path / "nc"

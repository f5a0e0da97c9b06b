import numpy as np
from PIL import Image

from data.datasets import load_splits
from studies.export_images import main


def test_what_no_attack_has_seen_is_written_pixel_for_pixel(tmp_path):
    main(["--dataset", "digits", "--output-dir", str(tmp_path / "clean")])
    paths = sorted(tmp_path.glob("clean/*/*.png"), key=lambda path: path.name)
    _, defender, test = load_splits("digits", "data")
    assert [path.parent.name for path in paths] == [
        images.classes[label] for images in (defender, test) for label in images.targets]
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    assert (pixels == np.concatenate([defender.data, test.data])).all()


def test_a_folder_that_holds_something_is_refused(tmp_path, refused):
    (tmp_path / "mine.png").write_bytes(b"mine")
    assert "is not empty" in refused(main, "--dataset", "digits", "--output-dir", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.png"]

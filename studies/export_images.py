"""Write clean images that no attack has seen, as PNG.

    python -m studies.export_images --dataset digits --output-dir output/digits-clean

The defender's tenth of the training images and the test images, as <class>/<number>.png: what `make audit` and every
defense take as a folder of clean images.
"""
from pathlib import Path

from PIL import Image

from common.errors import UserError
from common.files import atomic_folder
from data.datasets import DATASETS, load_splits
from engine import flags
from engine.command import command


def export(images, folder):
    """Write ImageSets one after another into `folder`, numbered through. Returns how many images there are."""
    number = 0
    for part in images:
        for pixels, label in zip(part.data, part.targets, strict=True):
            path = Path(folder) / part.classes[label] / f"{number:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            number += 1
    return number


def parse_args(argv=None):
    parser = flags.Parser(__doc__)
    parser.add_argument("--dataset", choices=DATASETS, default="cifar10", help="cifar10 or digits")
    parser.add_argument("--data-dir", default="data", help="as for the scripts")
    parser.add_argument("--output-dir", required=True, help="a folder that is new or empty")
    return parser.parse_args(argv)


@command
def main(argv=None):
    args = parse_args(argv)
    if Path(args.output_dir).exists() and any(Path(args.output_dir).iterdir()):
        raise UserError(f"{args.output_dir}: is not empty")

    _, defender, test = load_splits(args.dataset, args.data_dir)
    with atomic_folder(args.output_dir) as folder:
        count = export([defender, test], folder)
    print(f"{count} images in {args.output_dir}")


if __name__ == "__main__":
    main()

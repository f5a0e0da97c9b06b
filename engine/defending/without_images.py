"""What a method that looks at weights alone starts from: a model, and images only where they are named."""
from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass

from common.files import hash_file
from data.image_set import ImageSet
from engine.command_line import flags
from engine.command_line.inherit import dataset_of_model
from engine.defending.suspect import Suspect, class_names, load_given, load_suspect
from engine.measuring.evaluation import evaluate
from engine.measuring.scores import UNTESTED, Evaluation
from engine.runs.run import Run
from models.base import PixelModel

FIGURES_ALONE = "images are read for ACC and ASR alone, and only"


def add_optional_data_flags(parser: flags.Parser, why: str = FIGURES_ALONE) -> None:
    """The flags of add_data_flags, whose images are read only where --dataset or --data-dir is given.

    why: what the help text says that images are for, before "if --dataset or --data-dir is given".
    check_data_flags must be called on the parsed flags.
    """
    flags.add_data_flags(parser, f"Not needed: {why} if --dataset or --data-dir is given.")
    parser.set_defaults(dataset=usual_dataset, data_dir=usual_folder)


def usual_dataset(args: Namespace) -> str | None:
    """That of the model's run if --data-dir is given without one; None where no images are named."""
    return dataset_of_model(args) if isinstance(args.data_dir, str) else None


def usual_folder(args: Namespace) -> str | None:
    """The usual folder if --dataset is given alone; None where no images are named."""
    return "data" if args.dataset else None


def check_data_flags(parser: flags.Parser, args: Namespace) -> None:
    """Refuse a trigger where there are no images to stamp."""
    if getattr(args, "trigger_info", None) and not args.dataset:
        parser.error("--trigger-info: has no effect without --dataset or --data-dir, whose images it is stamped on")


@dataclass(frozen=True)
class Subject:
    """A model under suspicion, perhaps without images.

    checkpoint: the model's file. classes: names in label order, numbers where nothing names them. image_size: pixels a
    side of the images that it takes. suspect: the same with images; None where none are named. has_names: whether the
    model, --classes or the images name the classes. knows_input: whether the file, --mean and --std, or images on which
    it can be tried, say how pixels enter the network; otherwise it is what is usual for the network.
    """

    checkpoint: str
    model: PixelModel
    classes: tuple[str, ...]
    image_size: int
    suspect: Suspect | None
    has_names: bool = True
    knows_input: bool = True

    def fingerprint(self) -> str:
        """What a run says that it worked on: the weights, and the images if there are any."""
        return self.suspect.fingerprint() if self.suspect else hash_file(self.checkpoint)

    def evaluate(self) -> Evaluation:
        """The Evaluation on the test images; all of it unknown without images."""
        return evaluate(self.model, self.suspect.test) if self.suspect else UNTESTED

    @property
    def images(self) -> ImageSet | None:
        """The defender's images, which name the data set."""
        return self.suspect.defender if self.suspect else None


def load_subject(args: Namespace, run: Run, find: bool = True) -> Subject:
    """The Subject that the flags of add_suspect_flags and add_optional_data_flags name. Raises UserError.

    find: whether the trigger may be known, as for load_suspect.

    Without images the number of classes, the size of images and their normalization are those of the checkpoint, unless
    --classes, --image-size, --mean and --std say them.
    """
    if args.dataset:
        suspect, knows_input = load_suspect(args, run, find), True
        model = suspect.model
        names = classes = suspect.defender.classes
    else:
        found = load_given(args, run.device)
        suspect, model, knows_input = None, found.model, found.says_input or args.mean is not None
        names = class_names(args, found)
        classes = names or tuple(map(str, range(model.spec["num_classes"])))
    return Subject(args.checkpoint, model, tuple(classes), model.spec["image_size"], suspect, bool(names),
                   knows_input)

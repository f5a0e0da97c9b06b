"""What a run worked on, as its config.json has it: hashes of a model, if there is one, of images, and of files."""
from argparse import Namespace
from pathlib import Path
from typing import Any, Protocol

from common.files import hash_file


class Images(Protocol):
    """What tells itself from other images by a hash, as an ImageSet does."""

    def fingerprint(self) -> str: ...


def inputs_of(checkpoint: str | None, images: Images) -> str:
    """A hash of the checkpoint's file and a blank, if there is one, and the hash of the images."""
    return f"{hash_file(checkpoint)} {images.fingerprint()}" if checkpoint else images.fingerprint()


def named_files(args: Namespace) -> dict[str, str]:
    """{argument: hash} of the files that the flags name, as `common.files.hash_file` has it."""
    return {name: hash_file(value) for name, value in vars(args).items()
            if isinstance(value, str) and Path(value).is_file()}


def are_of(inputs: Any, weights: str) -> bool:
    """Whether the weights with the hash `weights` (`common.files.hash_file`) are among a run's `inputs`.

    Of a run that does not say what it worked on, which an older one may not, nothing is known: False.
    """
    return isinstance(inputs, str) and inputs.split(" ")[0] == weights


def are_of_others(inputs: Any, weights: str) -> bool:
    """Whether a run says that it worked on other weights than those with the hash `weights`, or on none."""
    return isinstance(inputs, str) and not are_of(inputs, weights)

"""What the repairs that train on the defender's images have in common: their images, first figures and last files."""
import logging
from argparse import Namespace
from dataclasses import dataclass

from common.inputs import inputs_of
from data.image_set import ImageSet
from engine.command_line import flags
from engine.defending.suspect import Suspect, split_defender
from engine.measuring.evaluation import evaluate
from engine.measuring.scores import Evaluation, log_figures
from engine.runs.run import Run
from engine.weights.checkpoint import save_model
from models.base import PixelModel

log = logging.getLogger("backdoor")


def add_share_flag(group: flags.Group, share: float = 0.05, rest: str = "is not used") -> None:
    """--val-frac. share: its default, 0.05 for 2,500 of CIFAR-10's images. rest: what the defender's other images do.
    """
    group.add_argument("--val-frac", type=flags.fraction, default=share,
                       help="share of all training images that the repair trains on, taken from the defender's tenth; "
                            f"the rest of the tenth {rest}")


@dataclass(frozen=True)
class Repair:
    """A repair that has begun.

    own: the defender's images that it trains on. held_out: the others, on which it chooses. before: the Evaluation of
    the model as it came.
    """

    run: Run
    suspect: Suspect
    own: ImageSet
    held_out: ImageSet
    before: Evaluation

    @classmethod
    def begin(cls, run: Run, args: Namespace, suspect: Suspect, more_inputs: str = "") -> "Repair":
        """Begin the Run on a Suspect and the share of its images that add_share_flag's flag names.

        more_inputs: fingerprint of what else the repair reads. Raises UserError before anything is written.
        """
        own, held_out = split_defender(suspect.defender, args.val_frac)
        run.begin(inputs_of(args.checkpoint, own) + more_inputs)
        log.info("%d clean images", len(own))
        return cls(run, suspect, own, held_out, log_figures("before", evaluate(suspect.model, suspect.test)))

    def finish(self, model: PixelModel, after: Evaluation, method: dict, epochs: int | None = None) -> None:
        """Leave the repaired `model` in model_last.th, and results.json.

        method: the script's own entries there. epochs: of all stages together, if that is not --epochs.
        """
        log_figures("after", after)
        save_model(self.run.folder / "model_last.th", model, vars(self.run.args), after.figures(), self.suspect.classes)
        self.run.finish(after, model=model, parent=self.suspect.checkpoint, data=self.suspect.defender, epochs=epochs,
                        method={**method, "before": self.before.figures(), "images": len(self.own)})

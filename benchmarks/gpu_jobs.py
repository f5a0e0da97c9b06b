"""The jobs of benchmarks/gpu.py: which script runs with which flags, what it needs, and how long it takes."""
from dataclasses import dataclass

from common.errors import UserError
from engine.catalogue import BY_MODULE

# The modules of engine.catalogue. This table alone names them.
SCRIPTS = {
    "train": "train_backdoor",
    "craft": "generate_clb_attack",
    "masks": "generate_mask",
    "prune": "prune_network",
    "strip": "defenses.strip",
    "search": "defenses.neural_cleanse",
    "unlearn": "defenses.unlearn_trigger",
    "fine-prune": "defenses.fine_prune",
    "abl": "defenses.abl",
    "noise": "studies.neuron_noise",
    "encoder": "attacks.issba_encoder",
    "pruning-aware": "attacks.pruning_aware",
}
# Seconds on an H100 or H200 beside two other jobs. Seen on an H200 beside three: 40 epochs of a training 177 to 209,
# craft 27 with its start, 1,000 steps of masks 61. The others are estimated from those and from the operations and
# launches of each; --scale multiplies them.
SECONDS = {"train": 220, "craft": 25, "masks": 110, "prune": 20, "strip": 28, "search": 55, "unlearn": 20,
           "fine-prune": 22, "abl": 300, "noise": 35, "encoder": 100, "pruning-aware": 220}
REHEARSED = {"train": 12, "abl": 20, "pruning-aware": 20}  # the same for a rehearsal, on two CPU cores
REHEARSED_OTHERWISE = 10
ONE_EPOCH = ("--width", "2", "--epochs", "1", "--batch-size", "128")
SMALL = {  # flags of a rehearsal
    "train": ONE_EPOCH,
    "masks": ("--val-frac", "0.05", "--nb-iter", "4"),
    "prune": ("--val-frac", "0.05"),
    "strip": ("--overlays", "5", "--inspect", "40", "--frr", "0.05"),
    "search": ("--seeds", "1", "--budget", "3", "--batches", "1"),
    "fine-prune": ("--val-frac", "0.05", "--epochs", "1"),
    "abl": (*ONE_EPOCH, "--isolation-epochs", "1", "--unlearn-epochs", "1"),
    "noise": ("--epsilons", "0.1", "--steps", "2", "--seeds", "1", "--val-frac", "0.05"),
    "encoder": ("--epochs", "1", "--width", "4", "--bits", "4", "--min-psnr", "0", "--min-bit-accuracy", "0"),
    "pruning-aware": ("--epochs", "1"),
}


@dataclass(frozen=True)
class Job:
    """One call of a script.

    words: what stands after `python`. folder: where it leaves results.json. needs: names of jobs that must have
    finished. seconds: how long it takes beside two others. must: it comes before those that are not.
    """

    name: str
    words: tuple
    folder: str
    needs: tuple = ()
    seconds: float = 0
    must: bool = False

    @property
    def least(self):
        """Seconds in which it may end at best. A must-have is given the card alone: it is worth the try."""
        return self.seconds / 2 if self.must else self.seconds


class Jobs(dict):
    """{name: Job}, filled by the methods below.

    output: the folder of all runs. data_dir: the images; None for a rehearsal, in small on digits on a CPU. scale:
    how much slower than an H100 or H200 the card is.
    """

    def __init__(self, output, data_dir, scale=1.0):
        super().__init__()
        self.output, self.scale, self.small = output, scale, data_dir is None
        self.device = ("--device", "cpu") if self.small else ()
        self.data = ("--dataset", "digits", *self.device) if self.small else ("--data-dir", data_dir)

    def run(self, attack):
        """The folder of an attack's run."""
        return f"{self.output}/{attack}"

    def seconds(self, kind):
        """The estimate for a kind of script, before scaling."""
        return REHEARSED.get(kind, REHEARSED_OTHERWISE) if self.small else SECONDS[kind]

    def add(self, name, kind, folder, *flags, needs=(), must=False, seconds=None):
        """A job that runs the script SCRIPTS[kind] with `flags`, and in a rehearsal with SMALL[kind] too."""
        small = SMALL.get(kind, ()) if self.small else ()
        again = BY_MODULE[SCRIPTS[kind]].again
        words = (*BY_MODULE[SCRIPTS[kind]].words(), *flags, *small, "--output-dir", folder, again)
        estimate = self.seconds(kind) if self.small or seconds is None else seconds
        self[name] = Job(name, words, folder, tuple(needs), self.scale * estimate, must)

    def train(self, attack, *flags, **options):
        """A training on an attack's images."""
        self.add(attack, "train", self.run(attack), "--poison-type", attack, *self.data, *flags, **options)

    def on(self, attack, name, kind, folder, *flags, needs=(), **options):
        """A job named attack/name on the attack's model."""
        self.add(f"{attack}/{name}", kind, f"{self.run(attack)}/{folder}", "--checkpoint", self.model(attack),
                 *self.data, *flags, needs=(attack, *needs), **options)

    def model(self, attack):
        """The weights that an attack's run leaves."""
        return f"{self.run(attack)}/model_last.th"

    def anp(self, attack):
        """Both steps of ANP on an attack's model."""
        self.on(attack, "masks", "masks", "anp", must=True)
        folder = f"{self.run(attack)}/anp"
        self.add(f"{attack}/anp", "prune", f"{folder}/pruned", "--mask-file", f"{folder}/mask_values.txt",
                 *self.device, needs=[f"{attack}/masks"], must=True)

    def fine_tune_and_prune(self, attack):
        """Fine-Pruning, and fine-tuning alone, which its report compares with."""
        self.on(attack, "fine-tune", "fine-prune", "fine-tune", "--mode", "fine-tune")
        self.on(attack, "fine-prune", "fine-prune", "fine-prune", needs=[f"{attack}/fine-tune"])


def homework(output, data_dir, scale=1.0):
    """The Jobs in the order in which they are begun: the table of attacks and ANP, then what else time allows."""
    jobs = Jobs(output, data_dir, scale)
    add_table(jobs)
    add_defenses(jobs)
    add_checks(jobs)
    add_more_attacks(jobs)
    return jobs


def add_table(jobs):
    """The must-haves. The longest path is benign, craft, clean-label, its masks, its pruning."""
    crafted = f"{jobs.output}/clean-label-set"
    jobs.train("benign", must=True)
    jobs.train("badnets", must=True)
    jobs.add("craft", "craft", crafted, "--checkpoint", jobs.model("benign"), *jobs.data, needs=["benign"], must=True)
    jobs.train("clean-label", "--clb-dir", crafted, needs=["craft"], must=True)
    jobs.train("blend", must=True)
    for attack in ("badnets", "clean-label", "blend", "benign"):
        jobs.anp(attack)


def add_defenses(jobs):
    """Every other defense on BadNets first, then on the other attacks and on the benign model."""
    jobs.on("badnets", "strip", "strip", "strip")
    jobs.on("badnets", "nc", "search", "neural-cleanse")
    jobs.fine_tune_and_prune("badnets")
    jobs.on("badnets", "unlearn", "unlearn", "unlearn-reversed", needs=["badnets/nc"])
    jobs.add("abl", "abl", jobs.run("badnets-abl"), "--poison-type", "badnets", *jobs.data)
    jobs.on("benign", "nc", "search", "neural-cleanse")
    for attack in ("clean-label", "blend"):
        jobs.on(attack, "strip", "strip", "strip")
    jobs.on("badnets", "noise", "noise", "neuron-noise", "--benign", jobs.model("benign"), needs=["benign"])
    for attack in ("blend", "clean-label"):
        jobs.on(attack, "nc", "search", "neural-cleanse")
        jobs.fine_tune_and_prune(attack)


def add_checks(jobs):
    """Whether --deterministic gives the same bits twice, and what an epoch takes with --compile."""
    short = () if jobs.small else ("--width", "16", "--epochs", "3")
    for name in DETERMINISTIC:
        jobs.add(name, "train", jobs.run(name), "--dataset", "digits", *jobs.device, *short, "--deterministic",
                 seconds=25)
    more = () if jobs.small else ("--epochs", "4", "--compile")
    jobs.add("compiled", "train", jobs.run("compiled"), "--poison-type", "badnets", *jobs.data, *more, seconds=90)


def add_more_attacks(jobs):
    """ISSBA, whose encoder is trained first, and the attack that knows of pruning."""
    encoder = f"{jobs.output}/issba-encoder"
    jobs.add("issba-encoder", "encoder", encoder, "--checkpoint", jobs.model("benign"), *jobs.data, needs=["benign"])
    jobs.train("issba", "--encoder", f"{encoder}/encoder.th", needs=["issba-encoder"], seconds=240)
    jobs.add("pruning-aware", "pruning-aware", jobs.run("badnets-pruning-aware"), "--poison-type", "badnets",
             "--checkpoint", jobs.model("benign"), *jobs.data, needs=["benign"])


DETERMINISTIC = ("deterministic-1", "deterministic-2")


def chosen(jobs, names):
    """{name: Job} of `names` and all that they need, in the order of `jobs`; all of them for no names."""
    unknown = [name for name in names if name not in jobs]
    if unknown:
        raise UserError(f"--only {unknown[0]}: no such job; there are {', '.join(jobs)}")
    wanted, left = set(), list(names or jobs)
    while left:
        name = left.pop()
        wanted.add(name)
        left += jobs[name].needs
    return {name: job for name, job in jobs.items() if name in wanted}

"""Every command that the README and the scripts' docstrings print runs as printed, here on a small image folder."""
import importlib
import re
import shlex
import subprocess

import pytest
from helpers.paths import ROOT

SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))
SMALLER = {"train_backdoor": ["--width", "2", "--epochs", "1", "--milestones"],
           "generate_clb_attack": ["--iterations", "1"],
           "generate_mask": ["--val-frac", "0.05", "--nb-iter", "1"], "prune_network": [],
           "sweep_anp": ["--val-frac", "0.05", "--nb-iter", "1", "--alphas", "1", "--seeds", "1"],
           "train_pruning_aware": ["--width", "2", "--epochs", "1", "--milestones"],
           "train_abl": ["--width", "2", "--isolation-epochs", "1", "--epochs", "1", "--milestones"],
           "sweep_abl": ["--width", "2", "--isolation-epochs", "1", "--epochs", "1", "--milestones",
                       "--isolation-rates", "0.1", "--unlearn-epochs", "0"],
         "fine_prune": [],
           "neural_cleanse detect": ["--budget", "1", "--seeds", "1"],
           "neural_cleanse unlearn": [],
           "detect_strip": ["--overlays", "2"],
           "generate_issba_encoder": ["--bits", "2", "--width", "2", "--epochs", "1", "--min-psnr", "0",
                                    "--min-bit-accuracy", "0"],
         "measure_specificity": [], "audit_model": [],
         "sweep_neuron_noise": ["--val-frac", "0.05", "--epsilons", "0.1", "--seeds", "1", "--steps", "1"]}
BADNETS = "python train_backdoor.py --poison-type badnets"
BENIGN = "python train_backdoor.py --poison-type benign"
ENCODER = "python -m attacks.issba_encoder"
FIRST = {"generate_clb_attack": [BENIGN], "generate_mask": [BADNETS], "sweep_anp": [BADNETS],
         "prune_network": [BADNETS, "python generate_mask.py"], "sweep_neuron_noise": [BADNETS, BENIGN],
         "generate_issba_encoder": [BENIGN],
         "measure_specificity": [BENIGN, ENCODER, "python train_backdoor.py --poison-type issba"],
         "compare_strip": [BADNETS, BADNETS.replace("badnets", "blend"), *(
             f"python -m defenses.strip --checkpoint output/{attack}/model_last.th" for attack in ("badnets", "blend"))],
         "audit_model": [BADNETS, "python defenses.neural_cleanse --checkpoint output/badnets/model_last.th"],
         "report": [BADNETS], "neural_cleanse": [BADNETS], "fine_prune": [BADNETS], "detect_strip": [BADNETS]}

HELP = {"neural_cleanse": ["detect"]}


def readme_commands(start):
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+#.*", "", line).strip() for line in lines if line.strip().startswith(start)]


def run(command):
    """Call the script of `python x.py ...` in this process, on the small folder and with little to do."""
    words = shlex.split(command)
    name, flags = words[1].removesuffix(".py"), words[2:]
    if words[1] == "-m":
        name, flags = words[2], words[3:]
    task = f"{name} {flags[0]}" if flags and not flags[0].startswith("-") else name
    smaller = SMALLER.get(task, [])
    if task in SMALLER and "digits" not in flags:
        smaller = [*smaller, "--data-dir", "data/cifar10-jpeg"]
    if "--images" in flags:
        return screen(name, flags)
    if "--grade" in flags:
        return verdict(name, flags)
    importlib.import_module(name).main([*flags, *smaller])


def screen(name, flags):
    """A command that screens a folder of the reader's own, here the small one; its exit status is its verdict."""
    flags[flags.index("--images") + 1] = "data/cifar10-jpeg/test/ant"
    verdict(name, flags)


def verdict(name, flags):
    """A command whose exit status is its verdict."""
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(name).main(flags)
    assert stopped.value.code in (0, 1)


@pytest.fixture
def checkout(image_folder, tmp_path, monkeypatch):
    """An empty folder to stand in, with the small image folder where the README puts CIFAR-10."""
    (tmp_path / "data").mkdir()
    image_folder(("ant", "bee", "cow"), count=40, name="data/cifar10-jpeg")
    monkeypatch.chdir(tmp_path)


def test_the_readme_has_commands():
    assert len(readme_commands("python ")) >= 4


def test_every_readme_command_runs_in_the_order_printed(checkout):
    for command in readme_commands("python "):
        if "benchmarks/" not in command:
            run(command)


@pytest.mark.parametrize("name", [  # the README's own commands run the sweeps too
    pytest.param(name, marks=pytest.mark.long) if name.startswith("sweep_") else name for name in SCRIPTS])
def test_every_script_opens_with_a_command_that_runs(checkout, name, capsys):
    docstring = importlib.import_module(name).__doc__
    commands = re.findall(r"^    (python .*)$", docstring, re.MULTILINE)
    assert commands
    for command in [*FIRST.get(name, []), *commands]:
        run(command)
    with pytest.raises(SystemExit) as done:
        importlib.import_module(name).main([*HELP.get(name, []), "--help"])
    assert done.value.code == 0 and "--output-dir" in capsys.readouterr().out


@pytest.mark.parametrize("command", readme_commands("make "))
def test_every_make_target_in_the_readme_exists(command):
    assert subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True).returncode == 0

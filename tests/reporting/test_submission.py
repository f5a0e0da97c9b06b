"""Submissions of the course, graded as they are. The kind: the same facts in another folder, file, name or encoding."""
import pytest
from helpers.reporting import grades

HEADER = "Epoch \t lr \t Time \t TrainLoss \t TrainACC \t PoisonLoss \t PoisonACC \t CleanLoss \t CleanACC"
PRUNED = "216.00 \t layer4.1.bn2 \t 7 \t {} \t 3.1 \t {:.4f} \t 0.3 \t {:.4f}\n"


def training(poison_type, rows):
    """The lines of one training as the course's script logs them; rows are (epoch, ASR, ACC)."""
    return [f"Namespace(batch_size=256, poison_type='{poison_type}', trigger_alpha=1.0)", HEADER, *(
        f"{epoch} \t 0.100 \t 9.1 \t 0.3 \t 0.9 \t 0.1 \t {asr:.4f} \t 0.3 \t {acc:.4f}" for epoch, asr, acc in rows)]


@pytest.fixture
def submission(tree):
    """One output/ with one log of all trainings, broken-off starts, and foreign lines; a table of pruning beside it."""
    lines = [*training("benign", [(49, 0.01, 0.94)]), *training("badnets", [(1, 0.1, 0.4), (2, 0.2, 0.5)]),
             "STREAM b'IHDR' 16 13", *training("badnets", [(1, 0.9, 0.5), (49, 1.0, 0.928)]),
             "matplotlib data path: lib", *training("badnets", []), *training("blend", [(49, 1.0, 0.924)]),
             *training("clean-label", [(49, 0.843, 0.934)]), *training("clean-label", [(1, 0.05, 0.3)])]
    folder = tree.root / "work/output"
    folder.mkdir(parents=True)
    (folder / "output.log").write_text("".join(f"[2026/05/11 10:00:00] - {line}\n" for line in lines))
    (tree.root / "work/prune_out").mkdir()
    (tree.root / "work/prune_out/pruning_by_0.3.txt").write_text(PRUNED.format(0.3, 0.0389, 0.9231))
    return tree


def test_one_log_of_all_trainings_and_one_row_of_pruning_are_graded(submission):
    lines = grades(submission.root)
    assert all(line.passed for line in lines.values())
    assert lines["BadNets", "ACC"].measured["value"] == 0.928 and lines["Clean-label", "ASR"].measured["value"] == 0.843
    assert lines["BadNets", "ACC"].source == "work/output/output.log, line 12 (epoch 49)"
    assert "the longest of 2 trainings of this attack" in lines["BadNets", "ACC"].note
    assert lines["ANP", "ASR"].source == "work/prune_out/pruning_by_0.3.txt, line 1"
    assert "oracle" not in lines["ANP", "ASR"].note


def test_a_training_is_never_chosen_by_its_score(submission):
    path = submission.root / "work/output/output.log"
    path.write_text(path.read_text() + "\n".join(training("badnets", [(48, 1.0, 0.99), (49, 0.4, 0.91)])))
    assert grades(submission.root)["BadNets", "ASR"].measured["value"] == 0.4


def test_several_tables_of_one_row_are_an_oracle(submission):
    (submission.root / "work/prune_out/pruning_by_0.2.txt").write_text(PRUNED.format(0.2, 0.4, 0.93))
    line = grades(submission.root)["ANP", "ASR"]
    assert line.passed and "oracle: the best of 2 rows" in line.note


def test_a_submission_in_utf_16_is_graded(submission):
    for path in submission.root.rglob("*.*"):
        path.write_bytes(path.read_text().replace("\n", "\r\n").encode("utf-16"))
    assert all(line.passed for line in grades(submission.root).values())


@pytest.mark.parametrize("log, model", [("badnets.log", ""), ("badnets_output.log", "blendmodel_last.th"),
                                        ("output.log", "badnetsmodel_last.th"),
                                        ("output.log", "badnets_model_last.th")])
def test_without_arguments_the_attack_is_told_by_the_names_of_files(tree, log, model):
    (tree.root / log).write_text("\n".join(training("x", [(49, 1.0, 0.93)])[1:]))
    if model:
        (tree.root / model).write_bytes(b"")
    lines = grades(tree.root)
    assert lines["BadNets", "ACC"].passed and lines["Blend", "ACC"].note == "no run found"


def test_models_of_two_attacks_do_not_tell_which_one_a_log_is_of(tree):
    (tree.root / "output.log").write_text("\n".join(training("x", [(49, 1.0, 0.93)])[1:]))
    for attack in ("badnets", "blend"):
        (tree.root / f"{attack}model_last.th").write_bytes(b"")
    assert {line.note for line in grades(tree.root).values()} == {"no run found"}

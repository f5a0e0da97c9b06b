import pytest

from common.errors import UserError
from reporting.log import read_log, read_pruning, read_trainings

ROW = "3 \t 0.100 \t 20.0 \t 0.5 \t 0.8 \t 0.1 \t 0.9912 \t 0.4 \t 0.9001"


@pytest.mark.parametrize("prefix", ["", "[2026/05/11 23:59:59] - ", "[INFO] ", "INFO:root:",
                                    "2026-05-11 23:59:59,123 - INFO - ", "2026-05-11 23:59:59,123 - train - "])
def test_a_row_is_read_whatever_the_logger_puts_before_it(tmp_path, prefix):
    (tmp_path / "output.log").write_text(f"{prefix}Epoch \t lr\n{prefix}{ROW}\n")
    row, = read_log(tmp_path / "output.log").rows
    assert (row["epoch"], row["lr"], row["poison_acc"], row["clean_acc"], row["line"]) == (3, 0.1, 0.9912, 0.9001, 2)


def test_of_a_log_that_was_appended_to_the_last_training_counts(tmp_path):
    rows = [ROW, ROW.replace("3 \t", "4 \t", 1), ROW.replace("3 \t", "1 \t", 1).replace("0.9912", "0.1000")]
    (tmp_path / "output.log").write_text("\n".join(rows))
    assert [(row["epoch"], row["poison_acc"]) for row in read_log(tmp_path / "output.log").rows] == [(1, 0.1)]


@pytest.mark.parametrize("line", ["", "hello", ROW.replace("3", "0", 1), ROW + " \t 1",
                                  ROW.replace("0.9912", "x"), "1 2 3 4 5 6 7 8 9"])
def test_what_is_no_row_is_passed_over(tmp_path, line):
    (tmp_path / "output.log").write_text(line)
    assert read_log(tmp_path / "output.log").rows == ()


@pytest.mark.parametrize("line, name", [("Namespace(poison_type='clean-label', lr=0.1)", "clean-label"),
                                        ("{'poison_type': 'blend'}", "blend"), ("--poison-type badnets", "badnets"),
                                        ("nothing", None)])
def test_the_attack_is_read_from_the_arguments(tmp_path, line, name):
    (tmp_path / "output.log").write_text(line)
    assert read_log(tmp_path / "output.log").poison_type == name


def test_a_pruning_table_is_read_with_its_lines(tmp_path):
    path = tmp_path / "pruning_by_threshold.txt"
    path.write_text("No \t Layer Name \t Neuron Idx \t Mask \t PoisonLoss \t PoisonACC \t CleanLoss \t CleanACC\n"
                    "0.00 \t None \t None \t None \t 0.0 \t 1.0 \t 0.3 \t 0.93\n"
                    "7.00 \t layer1.0.bn1 \t 3 \t 0.25 \t 0.5 \t 0.04 \t 0.3 \t 0.92\nrubbish\n")
    rows = [(row["pruned"], row["threshold"], row["line"]) for row in read_pruning(path)]
    assert rows == [(0, None, 2), (7, 0.25, 3)]


def test_a_log_that_is_not_there_is_one_error(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_log(tmp_path / "none.log")


def test_percentages_are_a_complaint_that_says_what_to_write(tmp_path):
    (tmp_path / "output.log").write_text(ROW.replace("0.9912", "99.12"))
    log = read_log(tmp_path / "output.log")
    assert log.rows == () and "write 99.9 % as 0.999" in log.complaint


def test_a_table_of_other_columns_in_the_same_log_is_passed_over(tmp_path):
    mask = "500 \t 0.200 \t 20.0 \t 0.5 \t 0.8 \t 0.1 \t 0.0300 \t 0.4 \t 0.9001"
    (tmp_path / "output.log").write_text(f"Epoch \t lr\n{ROW}\nIter \t lr\n{mask}\n")
    assert [row["epoch"] for row in read_log(tmp_path / "output.log").rows] == [3]


def test_the_last_epoch_that_was_tested_is_the_one_that_counts(tmp_path):
    untested = "\t".join(["{epoch}", "0.100", "20.0", "0.5", "0.8", *["nan"] * 4])
    benign = ROW.replace("0.1 \t 0.9912", "nan \t nan")
    (tmp_path / "output.log").write_text("\n".join([untested.format(epoch=2), ROW, untested.format(epoch=4)]))
    log = read_log(tmp_path / "output.log")
    assert [row["epoch"] for row in log.rows] == [2, 3, 4] and log.last["epoch"] == 3 and not log.complaint
    (tmp_path / "output.log").write_text(benign)  # no trigger, but a test
    assert read_log(tmp_path / "output.log").last["clean_acc"] == 0.9001
    (tmp_path / "output.log").write_text(untested.format(epoch=2))
    assert read_log(tmp_path / "output.log").last["epoch"] == 2
    (tmp_path / "output.log").write_text("")
    assert read_log(tmp_path / "output.log").last is None


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_log_is_read_in_the_encodings_that_shells_write(tmp_path, encoding, newline):
    """The kind: a text that another shell or editor saved. PowerShell's > writes UTF-16 with a byte order mark."""
    text = newline.join(["Namespace(poison_type='blend')", "Epoch \t lr", ROW, ""])
    (tmp_path / "output.log").write_bytes(text.encode(encoding))
    log = read_log(tmp_path / "output.log")
    assert [(row["epoch"], row["line"]) for row in log.rows] == [(3, 3)] and log.poison_type == "blend"
    table = f"7.00 \t bn1 \t 3 \t 0.25 \t 1 \t 0.04 \t 1 \t 0.92{newline}"
    (tmp_path / "pruning.txt").write_bytes(table.encode(encoding))
    assert [row["threshold"] for row in read_pruning(tmp_path / "pruning.txt")] == [0.25]


def test_an_appended_log_is_split_into_its_trainings(tmp_path):
    lines = ["Namespace(poison_type='badnets')", "Epoch \t lr", ROW, "STREAM b'IHDR' 16 13", ROW.replace("3", "4", 1),
             "Namespace(poison_type='blend')", "Epoch \t lr", "Namespace(poison_type='benign')",
             ROW.replace("3", "5", 1), ROW.replace("3", "2", 1)]
    (tmp_path / "output.log").write_text("\n".join(f"[2026/05/11 23:59:59] - {line}" for line in lines))
    found = [(log.poison_type, [row["epoch"] for row in log.rows]) for log in read_trainings(tmp_path / "output.log")]
    assert [one for one in found if one[1]] == [("badnets", [3, 4]), ("benign", [5]), ("benign", [2])]


def test_a_training_that_was_resumed_is_one(tmp_path):
    lines = ["Namespace(poison_type='badnets')", "Epoch \t lr", ROW, "Namespace(poison_type='badnets', resume=True)",
             "resumed after epoch 3", ROW.replace("3", "4", 1)]
    (tmp_path / "output.log").write_text("\n".join(lines))
    assert [row["epoch"] for row in read_log(tmp_path / "output.log").rows] == [3, 4]


PAIR = "1 \t 0.100 \t 4.0 \t 0.1 \t 0.98 \t 0.01 \t {} \t 0.3 \t {}\n"


@pytest.mark.parametrize("names", [
    "Epoch lr Time TrainLoss TrainACC TestLoss TestACC PoisonLoss PoisonACC",
    "epoch learning_rate time train_loss train_acc clean_loss clean_acc poison_loss poison_acc",
    "Epoch LR Time(s) Train-Loss Train-Accuracy Test-Loss Test-Accuracy Poisoned-Loss ASR"])
def test_columns_are_read_by_other_names_too(tmp_path, names):
    (tmp_path / "output.log").write_text(f"{names}\nepoch 3 begins\n{ROW}\n")
    row, = read_log(tmp_path / "output.log").rows
    assert (row["clean_acc"], row["poison_acc"]) == (0.9912, 0.9001)


def test_a_sentence_about_an_epoch_is_no_line_of_names(tmp_path):
    names = "Epoch lr Time(sec) TrainLoss TrainACC ValLoss ValACC PoisonLoss PoisonACC"
    (tmp_path / "output.log").write_text(f"{names}\nEpoch 1 done in 12 s, best so far at epoch 1\n{ROW}\n")
    log = read_log(tmp_path / "output.log")
    assert not log.complaint and log.last["clean_acc"] == 0.9912


def test_columns_that_are_not_known_are_a_complaint(tmp_path):
    (tmp_path / "output.log").write_text(f"Epoch lr Time A B C D E F\n{ROW}\n")
    log = read_log(tmp_path / "output.log")
    assert log.rows == () and "line 1: expected the columns Epoch, lr, Time, TrainLoss" in log.complaint
    assert log.complaint.endswith("got Epoch, lr, Time, A, B, C, D, E, F")


def test_columns_are_read_by_their_names(tmp_path):
    """Another implementation may have clean before poisoned: read by place, its ACC would be its ASR."""
    swapped = "Epoch \t lr \t Time \t TrainLoss \t TrainACC \t CleanLoss \t CleanACC \t PoisonLoss \t PoisonACC\n"
    (tmp_path / "output.log").write_text(swapped + PAIR.format(0.93, 0.999))
    row = read_log(tmp_path / "output.log").rows[0]
    assert (row["clean_acc"], row["poison_acc"]) == (0.93, 0.999)
    (tmp_path / "p.txt").write_text("No \t Layer Name \t Neuron Idx \t Mask \t CleanLoss \t CleanACC \t PoisonLoss \t "
                                    "PoisonACC\n57 \t bn1 \t 2 \t 0.3 \t 0.4 \t 0.93 \t 5.1 \t 0.01\n")
    row = read_pruning(tmp_path / "p.txt")[0]
    assert (row["clean_acc"], row["poison_acc"]) == (0.93, 0.01)


@pytest.mark.parametrize("value", ["99.9%", "0,999", "tensor(0.999)"])
def test_a_row_of_no_plain_numbers_is_complained_of(tmp_path, value):
    heading = "Epoch \t lr \t Time \t TrainLoss \t TrainACC \t PoisonLoss \t PoisonACC \t CleanLoss \t CleanACC\n"
    (tmp_path / "output.log").write_text(heading + PAIR.format(value, 0.9))
    assert "line 2: expected numbers" in read_log(tmp_path / "output.log").complaint

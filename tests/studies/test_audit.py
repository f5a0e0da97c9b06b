"""The audit of one model: who speaks, what it is compared with, and what it dares to say."""
import csv
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.files import write_json
from data.datasets import load_clean
from engine.defending.without_images import Subject
from engine.weights.checkpoint import load_model, load_trigger, save_model
from methods import hearing
from methods.measured import Kind, Measured
from methods.populations import populations_of
from methods.rates import write_rows
from methods.reference import Reference, find_reference
from methods.trigger_search import Search
from methods.witnesses import Settings
from models import build_model
from studies import audit
from studies.audit import main, parse_args

DIGITS = tuple("0123456789")
SETTINGS = Settings(starts=1, steps=3, searches=3, budget=2)


@pytest.fixture
def stranger(tmp_path):
    """The file of an untrained model of digits."""
    torch.manual_seed(0)
    save_model(tmp_path / "stranger.th", build_model("resnet18", 2, 10).eval(), {}, {}, DIGITS)
    return tmp_path / "stranger.th"


def reference(kind=None, dataset="digits", count=10, settings=SETTINGS, level=1.0):
    """Rows of benign models whose statistics lie about `level`."""
    spread = np.exp(np.random.default_rng(0).normal(0, 0.1, count)) * level
    kind = kind or Kind.of({"arch": "resnet18", "width": 2}, 32, DIGITS)
    return [Measured("calibrate", dataset, kind, settings.words(), "benign", None, "", seed, 0.9, None, value, value,
                     (value,) * 3, 0, (0, 0, 0)) for seed, value in enumerate(spread.tolist())]


def table(tmp_path, *rows):
    write_rows(tmp_path / "rates.csv", list(rows))
    return ["--rates", str(tmp_path / "rates.csv")]


def audited(tmp_path, *words):
    folder = tmp_path / "out"
    main([*map(str, words), "--output-dir", str(folder), "--overwrite"])
    return json.loads((folder / "results.json").read_text())


@pytest.fixture
def searching(monkeypatch):
    """Searches that find these norms, one row a search; returns a function that sets them and the list of seeds."""
    seeds, found = [], []

    def search(model, batches, in_a_step, labels, *rest):
        norms = found[len(seeds)]
        seeds.append(len(seeds))
        return [Search(label, None, None, norm=norm, mask=torch.full((1, 32, 32), norm / 1024),
                       pattern=torch.zeros(3, 32, 32), success=1.0, steps=1) for label, norm in enumerate(norms)]
    monkeypatch.setattr("methods.witnesses.reverse_triggers", search)
    monkeypatch.setattr("engine.defending.suspect.find_doubt", lambda *args, **options: None)  # always found

    def set_norms(*rows):
        found[:], seeds[:] = rows, []
        return seeds
    return set_norms


def norms(smallest, label=4):
    return [smallest if other == label else 90.0 for other in range(10)]


def test_without_images_two_witnesses_speak_and_no_image_is_read(stranger, tmp_path, monkeypatch):
    monkeypatch.setattr("engine.defending.suspect.load_clean", lambda *args: pytest.fail("images were read"))
    results = audited(tmp_path, stranger, "--starts", 1, "--steps", 3)
    method = results["method"]
    assert [row["witness"] for row in method["witnesses"]] == ["channels", "margins"]
    assert (results["acc"], results["asr"], method["verdict"], method["target"]) == (None, None, "undecided", None)
    rows = list(csv.DictReader((tmp_path / "out/witnesses.csv").open()))
    assert float(rows[0]["statistic"]) == method["witnesses"][0]["statistic"] > 0 and rows[0]["p_value"] == ""


def test_without_models_of_its_kind_the_verdict_is_undecided_and_says_so(stranger, tmp_path, searching, capsys):
    seeds = searching(norms(0.5), norms(0.5), norms(0.5))
    wide = reference(Kind.of({"arch": "resnet18", "width": 64}, 32, DIGITS))
    method = audited(tmp_path, stranger, "--dataset", "digits", *table(tmp_path, *wide))["method"]
    assert method["verdict"] == "undecided" and method["population"] is None and seeds == [0]
    assert "fewer than 5 benign models of digits of this kind (resnet18, width 2, 10 cla" in method["doubt"]
    assert method["trust"] == "Nothing is known of how often this verdict would be wrong."
    assert "no verdict can be given" in capsys.readouterr().out


def test_a_tiny_trigger_is_suspected_once_every_search_has_found_it(stranger, tmp_path, searching):
    seeds = searching(norms(30.0), norms(29.0), norms(2.0))
    rows = reference(level=100.0)  # beside which the first two witnesses say nothing
    rows = [replace(row, cleanse=(2 * row.cleanse[0] / 100,) * 3) for row in rows]
    results = audited(tmp_path, stranger, "--dataset", "digits", *table(tmp_path, *rows))
    method = results["method"]
    assert (method["verdict"], method["target"], method["target_class"], seeds) == ("suspect", 4, "4", [0, 1, 2])
    assert method["speaking"] == ["cleanse"] and method["combined"] < 0.01 and method["population"] == "digits"
    assert load_trigger(tmp_path / "out/reversed_trigger_4.th").target == 4
    assert method["settings"] == SETTINGS.words()  # as the population was measured


def test_each_search_begins_at_a_seed_of_its_own(images, monkeypatch):
    begun = []

    def search(model, images, settings, seed, device):
        begun.append(seed)
        return [Search(label, None, None, norm=norm, steps=1) for label, norm in enumerate((4.0, 60.0, 61.0, 62.0))]
    monkeypatch.setattr(hearing, "search_triggers", search)
    monkeypatch.setattr(hearing, "needs_more", lambda *args: True)
    subject = SimpleNamespace(model=None, suspect=SimpleNamespace(defender=images))
    hearing.hear_cleanse(hearing.Hearing(Reference(None), 0.05, images.classes), subject,
                         Settings(searches=3, batches=1, batch_size=4), 7, torch.device("cpu"))
    assert begun == [7, 8, 9]


def rare(stranger, tmp_path):
    """(words of an audit without images in which CLP's statistic is rare, its combined p-value)."""
    channels, margins = audited(tmp_path, stranger, "--starts", 1, "--steps", 3)["method"]["witnesses"][:2]
    rows = [replace(row, channels=channels["statistic"] / 2 * row.channels**4, margins=2 * margins["statistic"])
            for row in reference()]
    words = [stranger, *table(tmp_path, *rows), "--population", "digits"]
    value = audited(tmp_path, *words)["method"]["combined"]
    return words, value


def test_the_false_alarm_rate_is_the_callers(stranger, tmp_path):
    words, value = rare(stranger, tmp_path)
    assert 0.01 < value < 0.4
    verdicts = [audited(tmp_path, *words, "--alpha", value * share)["method"]["verdict"] for share in (1.2, 0.7, 0.1)]
    assert verdicts == ["suspect", "undecided", "no sign of a backdoor"]


def test_the_log_says_why_a_rare_statistic_is_not_rare_enough(stranger, tmp_path):
    words, value = rare(stranger, tmp_path)
    audited(tmp_path, *words, "--alpha", value * 0.7)
    assert "rare among benign models, but not rare enough" in (tmp_path / "out/output.log").read_text()


def test_a_data_set_without_models_is_an_error_that_names_those_there_are(stranger, tmp_path, capsys):
    with pytest.raises(SystemExit):
        audited(tmp_path, stranger, *table(tmp_path, *reference()), "--population", "digit")
    assert "--population digit: no models of it in the table, which has digits" in capsys.readouterr().err


def test_beside_a_doubt_the_p_value_is_only_what_it_would_be(stranger, tmp_path):
    torch.manual_seed(0)
    names = tuple("abcdefghij")
    save_model(stranger, build_model("resnet18", 2, 10).eval(), {}, {}, names)
    method = audited(tmp_path, stranger, *table(tmp_path, *reference()), "--starts", 1, "--steps", 3)["method"]
    assert method["verdict"] == "undecided" and "are of other classes" in method["doubt"]
    assert method["trust"].startswith("The nearest that have been measured are 10 benign models (digits")
    assert "if that did not matter)" in (tmp_path / "out/output.log").read_text()


def test_classes_that_are_numbers_do_not_say_of_which_data_set(stranger, tmp_path):
    rows = table(tmp_path, *reference())
    method = audited(tmp_path, stranger, *rows, "--starts", 1, "--steps", 3)["method"]
    assert method["verdict"] == "undecided" and "no names tell what this model's are" in method["doubt"]
    write_json(tmp_path / "config.json", {"script": "train_backdoor", "arguments": {"dataset": "digits"}})
    assert audited(tmp_path, stranger, *rows, "--starts", 1, "--steps", 3)["method"]["doubt"] is None


def test_a_model_of_the_reference_is_compared_with_the_others(stranger, tmp_path):
    words = [stranger, "--population", "digits", "--starts", 1, "--steps", 3]
    channels, margins = audited(tmp_path, *words, *table(tmp_path, *reference()))["method"]["witnesses"][:2]
    itself = replace(reference()[0], channels=channels["statistic"], margins=margins["statistic"], seed=77)
    alone = audited(tmp_path, *words, *table(tmp_path, *reference()))["method"]
    method = audited(tmp_path, *words, *table(tmp_path, *reference(), itself))["method"]
    assert "this is a model of the reference (seed 77)" in (tmp_path / "out/output.log").read_text()
    assert method["witnesses"] == alone["witnesses"] and method["combined"] == alone["combined"]


def test_models_measured_with_the_asked_settings_are_taken_before_others(stranger, tmp_path):
    more = reference(settings=replace(SETTINGS, steps=4), count=7)
    for steps, count in (("3", 10), ("4", 7)):
        args = parse_args([str(stranger), *table(tmp_path, *reference(), *more), "--steps", steps,
                           "--population", "digits"])
        subject = Subject(str(stranger), build_model("resnet18", 2, 10), DIGITS, 32, None)
        assert len(audit.choose(args, subject)[0].population.reference) == count


def test_the_table_is_the_suites_own_unless_one_is_named(stranger, tmp_path, capsys):
    args = parse_args([str(stranger), "--population", "digits"])
    assert args.rates is None  # so that no path of this machine is in config.json
    subject = Subject("model.th", build_model("resnet18", 16, 10), DIGITS, 32, None)
    assert len(audit.choose(args, subject)[0].population.reference) == 20
    with pytest.raises(SystemExit):
        main([str(stranger), "--rates", str(tmp_path / "none.csv"), "--output-dir", str(tmp_path / "out")])
    assert "none.csv: no such file; studies.calibrate_audit makes one" in capsys.readouterr().err


def test_an_even_model_is_searched_once_and_shows_no_sign(stranger, tmp_path, searching):
    seeds = searching(norms(80.0))
    method = audited(tmp_path, stranger, "--dataset", "digits", *table(tmp_path, *reference(level=20.0)))["method"]
    assert method["verdict"] == "no sign of a backdoor" and seeds == [0] and method["combined"] > 0.1


def test_a_cheap_witness_that_is_sure_spares_the_later_searches(stranger, tmp_path, searching):
    seeds = searching(norms(0.5), norms(0.5), norms(0.5))
    rows = [replace(row, channels=row.channels / 1000) for row in reference()]
    method = audited(tmp_path, stranger, "--dataset", "digits", *table(tmp_path, *rows))["method"]
    assert method["verdict"] == "suspect" and "channels" in method["speaking"] and seeds == [0]


def test_a_model_that_is_wrong_on_clean_images_is_undecided(stranger, tmp_path, monkeypatch):
    rows = [replace(row, channels=row.channels / 1000) for row in reference()]
    monkeypatch.setattr("methods.witnesses.reverse_triggers", lambda *args: [
        Search(label, None, None, steps=1) for label in range(10)])
    method = audited(tmp_path, stranger, "--dataset", "digits", *table(tmp_path, *rows))["method"]
    assert method["verdict"] == "undecided" and "where guessing gives 0.1" in method["doubt"]


def test_other_settings_than_the_populations_give_no_p_value(stranger, tmp_path):
    method = audited(tmp_path, stranger, "--steps", 2, *table(tmp_path, *reference()))["method"]
    assert method["population"] is None
    assert "other settings of the witnesses (--steps 3)" in method["doubt"]
    assert "may be of other classes" in method["doubt"]
    assert [row["p_value"] for row in method["witnesses"]] == [None, None]


def test_the_population_is_that_of_the_same_classes_or_the_one_that_the_caller_names():
    kind = Kind.of({"arch": "resnet18", "width": 2}, 32, DIGITS)
    animals = Kind.of({"arch": "resnet18", "width": 2}, 32, "abcdefghij")
    both = populations_of([*reference(animals, "pets", 12), *reference(kind)])
    assert find_reference(both, kind, True).population.dataset == "digits"
    assert find_reference(both, kind, True).doubt is None
    other = find_reference(both[:1], kind, True)
    assert other.population.dataset == "pets" and "are of other classes; only if" in other.doubt
    assert "may be of other classes" in find_reference(both, kind, False).doubt
    insisted = find_reference(both, kind, False, "pets")
    assert insisted.population.dataset == "pets" and insisted.doubt is None
    assert "fewer than 5 benign models of mnist" in find_reference(both, kind, True, "mnist").doubt
    assert find_reference(populations_of(reference(kind, count=4)), kind, True).population is None
    tests_alone = [replace(row, population="test") for row in reference(kind)]
    assert find_reference(populations_of(tests_alone), kind, True).population is None


def test_a_doubt_about_the_population_outweighs_the_witnesses(stranger, tmp_path):
    rows = [replace(row, channels=row.channels / 1000, dataset="pets") for row in reference(
        Kind.of({"arch": "resnet18", "width": 2}, 32, "abcdefghij"))]
    words = [stranger, *table(tmp_path, *rows)]
    method = audited(tmp_path, *words)["method"]
    assert method["verdict"] == "undecided" and method["combined"] < 0.01
    assert audited(tmp_path, *words, "--population", "pets")["method"]["verdict"] == "suspect"


def test_a_stranger_from_torchvision_is_heard_without_images(tmp_path):
    torch.manual_seed(0)
    torch.save(build_model("torchvision-resnet18", 8, 12).state_dict(), tmp_path / "tv.pth")
    method = audited(tmp_path, tmp_path / "tv.pth", "--image-size", 32, "--starts", 1, "--steps", 2)["method"]
    assert method["verdict"] == "undecided" and method["witnesses"][0]["statistic"] > 0


def test_the_trigger_beside_a_model_is_not_read(stranger, tmp_path, searching):
    searching(norms(80.0))
    (tmp_path / "trigger_info.th").write_bytes(b"no trigger")
    assert audited(tmp_path, stranger, "--dataset", "digits")["asr"] is None


def test_a_class_without_images_leaves_the_other_witnesses(stranger, tmp_path, monkeypatch):
    first, second = load_clean("digits", "")
    monkeypatch.setattr("engine.defending.suspect.load_clean", lambda *args: (first.subset(first.targets != 3), second))
    method = audited(tmp_path, stranger, "--dataset", "digits", "--starts", 1, "--steps", 2)["method"]
    assert [row["witness"] for row in method["witnesses"]] == ["channels", "margins"]


@pytest.mark.parametrize("words, found", [
    ((), ("output/badnets/model_last.th", None, None)), (("m.th",), ("m.th", None, None)),
    (("m.th", "pictures"), ("m.th", "cifar10", "pictures")),
    (("m.th", "--dataset", "digits"), ("m.th", "digits", "data")),
    (("--checkpoint", "m.th", "--data-dir", "pictures"), ("m.th", "cifar10", "pictures")),
    (("--checkpoint", "m.th", "pictures"), ("m.th", "cifar10", "pictures")),
    (("m.th", "--overwrite", "pictures"), ("m.th", "cifar10", "pictures")),
    (("m.th", "pictures", "--dataset", "cifar10"), ("m.th", "cifar10", "pictures")),
    (("--dataset", "digits", "m.th", "pictures"), ("m.th", "digits", "pictures")),
    (("m.th", "pictures", "--data-dir", "pictures"), ("m.th", "cifar10", "pictures"))])
def test_model_and_images_are_named_by_place_or_by_flag(words, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures/cat").mkdir(parents=True)
    args = parse_args(words)
    assert (args.checkpoint, args.dataset, args.data_dir) == found and "MODEL" not in args


def test_a_third_word_and_a_folder_with_nothing_in_it_are_refused(tmp_path, refused):
    """An empty folder would have CIFAR-10 downloaded into it."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/.DS_Store").touch()
    assert "it is empty" in refused(main, "m.th", tmp_path / "empty")
    assert "there is no such folder" in refused(main, "m.th", tmp_path / "nowhere")
    for words in ("--checkpoint m.th --data-dir a b", "m.th a --data-dir b", "m.th a b"):
        assert refused(main, *words.split())


def test_too_few_images_for_a_step_leave_the_other_witnesses(stranger, tmp_path, monkeypatch):
    first, second = load_clean("digits", "")
    monkeypatch.setattr("engine.defending.suspect.load_clean", lambda *args: (first.spread(15), second))
    method = audited(tmp_path, stranger, "--dataset", "digits", "--starts", 1, "--steps", 2)["method"]
    assert [row["witness"] for row in method["witnesses"]] == ["channels", "margins"]
    assert "15 clean images to search on, and a step takes 16" in (tmp_path / "out/output.log").read_text()


def test_without_images_a_guess_of_how_pixels_enter_is_no_ground_for_a_verdict(stranger, tmp_path):
    """As a bare state_dict by another program is: the same weights fed otherwise are another model."""
    torch.save(load_model(stranger).model.state_dict(), tmp_path / "bare.th")
    words = [tmp_path / "bare.th", *table(tmp_path, *reference()), "--population", "digits"]
    method = audited(tmp_path, *words)["method"]
    assert method["verdict"] == "undecided" and "nothing says how pixels enter this model" in method["doubt"]
    told = audited(tmp_path, *words, "--mean", "none", "--std", "none")["method"]
    assert told["doubt"] is None and told["combined"] == audited(tmp_path, stranger, *words[1:])["method"]["combined"]


def test_a_folders_name_does_not_say_of_which_data_set_it_is(stranger, tmp_path, monkeypatch, searching):
    """An image folder is called by its name, and may be of any data set."""
    searching(*[norms(50.0)] * 3)
    digits = load_clean("digits", "")
    monkeypatch.setattr("engine.defending.suspect.load_clean", lambda *args: digits)
    (tmp_path / "digits/0").mkdir(parents=True)
    method = audited(tmp_path, stranger, tmp_path / "digits", *table(tmp_path, *reference()))["method"]
    assert method["verdict"] == "undecided" and "no names tell what this model's are" in method["doubt"]


def test_a_data_set_that_is_named_says_more_than_the_run_of_the_model(stranger, tmp_path, monkeypatch, searching):
    searching(*[norms(50.0)] * 3)
    digits = [replace(part, name="mnist") for part in load_clean("digits", "")]
    monkeypatch.setattr("engine.defending.suspect.load_clean", lambda *args: digits)
    write_json(tmp_path / "config.json", {"script": "train_backdoor", "arguments": {"dataset": "digits"}})
    words = [stranger, *table(tmp_path, *reference()), "--dataset", "mnist", "--data-dir", tmp_path]
    assert "no names tell what this model's are" in audited(tmp_path, *words)["method"]["doubt"]


def test_where_no_witness_has_a_p_value_the_verdict_says_why(stranger, tmp_path):
    words = [stranger, "--population", "digits", "--starts", 1, "--steps", 3]
    channels, margins = audited(tmp_path, *words, *table(tmp_path, *reference()))["method"]["witnesses"][:2]
    itself = replace(reference()[0], channels=channels["statistic"], margins=margins["statistic"], seed=77)
    method = audited(tmp_path, *words, *table(tmp_path, itself, *reference(count=4)))["method"]
    assert method["verdict"] == "undecided" and method["doubt"].startswith("fewer than 5 other benign models")


def test_the_model_is_left_as_it_was(stranger, tmp_path):
    before = shutil.copy(stranger, tmp_path / "copy.th")
    audited(tmp_path, stranger, "--starts", 1, "--steps", 2)
    one, other = (load_model(path).model.state_dict() for path in (before, stranger))
    assert all(torch.equal(one[name], other[name]) for name in one)

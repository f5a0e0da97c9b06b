from reporting.evidence import cleanse_evidence, leaning, noise_evidence, witness_evidence

CLASSES = tuple(map(str, range(10)))


def label(number, flagged_in, norm, index=(1.0, 1.5), seeds=3):
    return {"label": number, "class": str(number), "seeds": seeds, "flagged_in": flagged_in, "norm": norm,
            "index": index}


def row(epsilon, error_rate, leans_to, share):
    return {"model": "suspect", "epsilon": epsilon, "error_rate": error_rate, "leaning": leans_to,
            "leaning_share_of_errors": share}


def test_a_flagged_label_is_pointed_to_with_its_figures():
    labels = [label(0, 0, (60, 70)), label(1, 0, (50, 80)), label(2, 3, (2.0, 2.4), (3.1, 5.25)), label(3, 0, None)]
    found, = cleanse_evidence({"labels": labels, "targets": [2]}, ("ant", "bee", "cow", "dog"))
    assert found.points_to == 2
    assert found.words == ("3 of 3 searches flag label 2 (cow): norm 2.0 to 2.4, anomaly index 3.10 to 5.25 (above 2 "
                           "is flagged); the smallest norms of the others have median 55.0")


def test_a_label_that_few_searches_flag_is_named_and_not_pointed_to():
    labels = [label(0, 0, (60, 70)), label(1, 1, (50, 80)), label(2, 0, None)]
    found, = cleanse_evidence({"labels": labels, "targets": []}, CLASSES)
    assert found.points_to is None and "most of 3 searches, label 1 by 1; " in found.words


def test_a_witness_points_where_it_does_and_says_its_p_value():
    rows = [{"witness": "channels", "points_to": None, "words": "channel 3 stands out", "p_value": 0.00123},
            {"witness": "margins", "points_to": 2, "words": "the largest margin", "p_value": None}]
    first, second = witness_evidence(rows)
    assert (first.test, first.points_to, first.words) == (
        "CLP's channel bounds, calibrated", None, "channel 3 stands out: p-value 0.0012")
    assert second.points_to == 2 and second.words == "the largest margin: no p-value"


def test_leaning_is_read_where_half_of_the_images_are_called_wrong():
    rows = [row(0.1, 0.4, 7, 0.9), row(0.1, 0.5, 7, 0.9), row(0.2, 0.5, 3, 0.6), row(0.2, 0.7, 3, 0.5),
            row(0.3, 0.9, 1, 1.0), row(0.3, 0.9, 1, 1.0)]
    assert leaning(rows) == (0.2, {3: 1}, 2)
    assert noise_evidence(rows, CLASSES).points_to is None
    assert leaning([row(0.1, 0.5, 7, 0.9), row(0.2, 0.9, 3, 0.9)])[0] == 0.1  # half is enough
    assert leaning(rows[:2]) == (0.1, {7: 2}, 2)  # nowhere half: the largest epsilon
    assert noise_evidence(rows[:2], CLASSES).points_to == 7
    assert leaning([row(0.1, 0.0, None, None)]) == (0.1, {}, 1)
    benign = [{**entry, "model": "benign", "leaning": 1} for entry in rows]  # a model to compare with is none of ours
    assert leaning(rows + benign) == leaning(rows)
    assert noise_evidence(rows + benign, CLASSES) == noise_evidence(rows, CLASSES)


def test_noise_points_to_a_label_that_every_start_leans_to_and_to_none_that_most_do():
    rows = [row(0.1, 0.9, leans_to, 0.9) for leans_to in (7, 7, 3)]
    assert noise_evidence(rows[:2], CLASSES).points_to == 7 and noise_evidence(rows, CLASSES).points_to is None
    assert noise_evidence(rows, CLASSES).words.endswith("over 3 random starts; labels that most errors are: 3 in 1, 7 "
                                                        "in 2")


def test_a_verdict_of_few_able_searches_says_so():
    found, = cleanse_evidence({"labels": [label(0, 0, (60, 70)), label(1, 0, (50, 80))], "targets": [],
                               "searches_able_to_flag": 2}, CLASSES)
    assert found.words.endswith("; 2 of the searches could flag a label at all")

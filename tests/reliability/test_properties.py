"""Strangers' mask files, logs and trigger dicts: whatever they hold, they are read as what they are or refused.

2,100 examples in `make test`, 105,000 in `make test-nightly`.
"""
import math
import os
import string
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import UserError
from data.triggers import trigger_from_info, trigger_to_info
from prune_network import read_data
from reporting.log import COLUMNS, read_log, read_pruning

EXAMPLES = 35_000 if os.environ.get("NIGHTLY") else 300
often = settings(max_examples=EXAMPLES, deadline=None, database=None, print_blob=True,
                 suppress_health_check=list(HealthCheck))

odd_numbers = st.one_of(st.floats(), st.integers(), st.sampled_from(
    ["nan", "inf", "-0", "1e400", "0x1", "1_0", "٣", "9" * 5000, "", "None"])).map(str)
numbers = st.one_of(st.floats(0, 1).map(str), odd_numbers)
words = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(["bn1", "layer1.0.bn1", "../x", "Mask"])
lines = st.lists(st.one_of(numbers, words), max_size=12).map(" \t ".join)
headers = st.sampled_from(["No \t Layer Name \t Neuron Idx \t Mask Score", "mask", "", "Epoch \t lr"])


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("properties") / "file.txt"


@often
@given(header=headers, rows=st.lists(st.one_of(st.tuples(
    st.integers().map(str), words, st.integers(-2, 70).map(str), numbers).map(" \t ".join), lines), max_size=8),
    raw=st.binary(max_size=20))
def test_a_mask_file_is_values_in_their_range_or_refused_by_line(path, header, rows, raw):
    path.write_bytes("\n".join([header, *rows]).encode() + raw)
    try:
        found = read_data(path)
    except UserError as error:
        assert str(error).startswith(str(path)) and len(str(error)) < 1000
        return
    assert found and len({(layer, index) for layer, index, _ in found}) == len(found)
    for layer, index, value in found:
        assert layer and isinstance(index, int) and 0 <= value <= 1


@often
@given(lines=st.lists(st.one_of(
    lines, headers, st.lists(numbers, min_size=9, max_size=9).map(" \t ".join),
    st.tuples(st.integers(1, 99).map(str), st.lists(st.floats(0, 1).map(str), min_size=8, max_size=8).map(" ".join))
    .map(" ".join), st.text(string.printable, max_size=40)), max_size=10), raw=st.binary(max_size=20))
def test_a_log_is_rising_epochs_of_shares_or_a_complaint(path, lines, raw):
    path.write_bytes("\n".join(lines).encode(errors="surrogatepass") + raw)
    log = read_log(path)
    epochs = [row["epoch"] for row in log.rows]
    assert epochs == sorted(set(epochs)) and all(epoch >= 1 for epoch in epochs)
    for row in log.rows:
        assert set(COLUMNS) < set(row)
        for name in ("train_acc", "poison_acc", "clean_acc"):
            assert 0 <= row[name] <= 1 or math.isnan(row[name])
    for row in read_pruning(path):
        assert 0 <= row["poison_acc"] <= 1 and 0 <= row["clean_acc"] <= 1


kinds = st.sampled_from([np.uint8, np.int64, np.float32, np.float64, np.bool_, np.complex64, "U3", np.int8])
shapes = st.sampled_from([(1, 32, 32, 3), (1, 32, 32, 1), (32, 32, 3), (32, 32, 1), (32, 32), (2, 32, 32, 3), ()])
def array(kind, shape, seed):
    """Values around 0, some of them far away or not finite."""
    rng = np.random.default_rng(seed)
    values = rng.choice([rng.normal(), 0.5, 1, 0, -3, 300, np.nan, np.inf], shape, p=[0.3, 0.2, 0.2, 0.2, *[0.025] * 4])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(values).astype(kind)


values = st.one_of(
    st.builds(array, kinds, shapes, st.integers(0, 10**6)),
    st.none(), st.text(max_size=3), st.floats(), st.integers(), st.lists(st.floats(), max_size=3))
rights = {"trigger_pattern": st.builds(lambda value: np.full((1, 32, 32, 3), value, np.uint8), st.integers(0, 255)),
          "trigger_mask": st.builds(lambda value: np.full((1, 32, 32, 1), value, np.float32),
                                    st.floats(0, 1, width=32)),
          "trigger_alpha": st.floats(0, 1), "poison_target": st.integers(0, 9).map(lambda target: np.array([target])),
          "data_index": st.just(np.arange(3))}


@often
@given(info=st.fixed_dictionaries({}, optional={
    **{name: right | right | right | values for name, right in rights.items()}, "trigger_encoder": values,
    "trigger_mask_generator": values}))
def test_a_trigger_dict_stamps_images_or_is_refused(info):
    try:
        trigger = trigger_from_info(info)
    except UserError as error:
        assert len(str(error)) < 2000
        return
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    before = images.copy()
    stamped = trigger.stamp(images)
    assert stamped.shape == images.shape and stamped.dtype == np.uint8
    np.testing.assert_array_equal(images, before)
    covered = np.broadcast_to(trigger.mask > 0, images.shape[1:])
    np.testing.assert_array_equal(stamped[:, ~covered], images[:, ~covered])
    again = trigger_from_info(trigger_to_info(trigger))
    np.testing.assert_array_equal(again.stamp(images), stamped)
    assert trigger.target >= 0

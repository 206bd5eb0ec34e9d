"""Kept predictions beside what their model was trained on: the same columns, whatever the tensors are called."""

from typing import Any

import numpy as np
import pyarrow as pa

from services.data import transforms
from services.data.job.parts import Form, Source, with_column
from services.data.job.transforms import drift
from services.data.job.work import Model, Result, Work

TOWNS = np.array(["Basel", "Bern", "Chur"])
SHOP = Model(["age", "town=Basel", "town=Bern", "town=Chur"], ["no", "yes"])


def kept(**columns: Any) -> pa.Table:
    """A table of the payload log."""
    rows = len(next(iter(columns.values())))
    table = pa.table({"trace_id": ["0" * 32] * rows, "instance": pa.array([0] * rows, pa.int32())})
    for name, values in columns.items():
        table = with_column(table, name.replace("__", "."), values)
    return table


def people(random: np.random.Generator, rows: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    return random.normal(40, 10, rows), random.choice(TOWNS, rows)


def vector(age: Any, town: Any) -> np.ndarray[Any, Any]:
    return np.column_stack([age, *(town == each for each in TOWNS)]).astype(np.float32)


def report(now: pa.Table, before: pa.Table | dict[str, pa.Table], model: Model | None = None) -> Result:
    baseline = Source(before if isinstance(before, dict) else {"data": before}, Form.TABLE)
    source = Source({"data": now}, Form.TABLE)
    given = transforms.parameters_of("drift", {})
    return drift.run(Work(given, source, {"baseline": baseline}, model=model or Model()))


def test_a_vector_is_compared_as_the_columns_that_it_was_made_of() -> None:
    random = np.random.default_rng(0)
    age, town = people(random, 2000)
    train = pa.table({"age": age, "town": town, "bought": random.choice(["no", "yes"], 2000)})
    age, town = people(random, 500)
    labels = pa.array(random.choice(["no", "yes"], 500, p=[0.1, 0.9]))
    same = kept(input__features=vector(age, town), label=labels)
    found = report(same, {"train": train, "test": train.slice(0, 0)}, SHOP).summary
    assert found["drifted"] == ["predicted"]
    assert found["rows"] == {"baseline": 2000, "input": 500}
    moved = report(kept(input__features=vector(age + 15, np.full(500, "Chur"))), train, SHOP)
    assert moved.summary["drifted"] == ["age", "town"]
    assert moved.summary["drift"]["age"]["ks"] > 0.4
    assert "<svg" in moved.page()


def test_the_features_of_a_table_of_numbers_are_its_columns_but_for_the_last() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(800, 2))
    train = pa.table({"a": x[:, 0], "b": x[:, 1], "y": x.sum(axis=1)})
    z = random.normal(size=(300, 2)).astype(np.float32)
    found = report(kept(input__features=z, output__value=z.sum(axis=1) + 3), train).summary
    assert found["drifted"] == ["predicted"]
    assert set(found["drift"]) == {"a", "b", "predicted"}


def test_images_are_compared_whatever_the_scale_of_their_pixels() -> None:
    random = np.random.default_rng(12)
    pixels = random.integers(0, 256, (400, 12, 12), dtype=np.uint8)
    train = with_column(pa.table({"label": random.integers(0, 2, 400)}), "image", pixels)
    again = random.integers(0, 256, (200, 12, 12), dtype=np.uint8)
    given = (again[:, None] / 255).astype(np.float32)
    cats = pa.array(random.choice(["cat", "dog"], 200))
    found = report(kept(input__image=given, label=cats), train, Model(labels=["cat", "dog"])).summary
    assert found["drifted"] == []
    assert found["drift"]["predicted"]["psi"] < 0.1
    given[:, :, 3:9] = 0.0
    assert report(kept(input__image=given), train).summary["drifted"] == ["image"]


def test_few_rows_are_no_drift_and_far_values_are_counted() -> None:
    random = np.random.default_rng(3)
    train = pa.table({"x": random.normal(size=5000), "flag": random.integers(0, 2, 5000)})
    few = pa.table({"x": random.normal(size=12), "flag": random.integers(0, 2, 12)})
    assert report(few, train).summary["drifted"] == []
    far = pa.table({"x": np.r_[random.normal(size=90), np.full(10, 50.0)], "flag": np.ones(100, np.int64)})
    found = report(far, train).summary
    assert found["drift"]["x"]["outliers"] == 0.1
    assert "flag" in found["drifted"]


def test_predictions_are_compared_with_earlier_ones_by_the_same_names() -> None:
    random = np.random.default_rng(4)
    now = kept(input__x=random.normal(size=(200, 4)), output__y=random.normal(2, 1, 200))
    before = kept(input__x=random.normal(size=(200, 4)), output__y=random.normal(0, 1, 200))
    found = report(now, before).summary
    assert set(found["drift"]) == {"input.x", "output.y"}
    assert found["drifted"] == ["output.y"]

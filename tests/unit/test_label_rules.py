"""What a label is, how alike labels are, what several come to, and the life of a task."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios.errors import AiosError, InvalidArgument
from aios.labels import (
    Box,
    Keypoint,
    Keypoints,
    Kind,
    Label,
    Polygon,
    Size,
    Span,
    check_label,
    likeness,
    sampling,
    similarity_of,
)
from aios.labels.consensus import agreement, dawid_skene, majority, resolver
from services.data.annotation import tasks
from services.data.annotation.tasks import LabelLeaseLost, LabelStateInvalid, Progress, Rules, State, Verdict

SQUARE = Polygon("x", ((0.0, 0.0, 2.0, 0.0, 2.0, 2.0, 0.0, 2.0),))
RULES = st.builds(Rules, st.integers(1, 4), st.sampled_from([0.5, 1.0]), st.integers(1, 3), st.booleans())


# The life of a task.

STEPS = st.one_of(
    st.tuples(st.just("label"), st.sampled_from([0.0, 0.6, 1.0])),
    st.tuples(st.just("skip"), st.none()),
    st.tuples(st.just("review"), st.tuples(st.sampled_from(list(Verdict)), st.booleans())),
    st.tuples(st.just("resolve"), st.booleans()),
)


@settings(max_examples=150, deadline=None)
@given(rules=RULES, steps=st.lists(STEPS, max_size=15))
def test_a_task_only_moves_along_its_ways(rules: Rules, steps: Sequence[tuple[str, object]]) -> None:
    ways = {
        State.OPEN: {State.OPEN, State.DISPUTED, State.ACCEPTED if rules.accept_agreed else State.LABELLED},
        State.LABELLED: {State.LABELLED, State.REVIEWED, State.ACCEPTED, State.OPEN},
        State.DISPUTED: {State.DISPUTED, State.REVIEWED, State.ACCEPTED, State.OPEN},
        State.REVIEWED: {State.REVIEWED, State.ACCEPTED, State.OPEN},
        State.ACCEPTED: {State.OPEN},
    }
    now = Progress()
    for step, argument in steps:
        try:
            after = take(now, step, argument, rules)
        except (LabelLeaseLost, LabelStateInvalid):
            continue
        assert after.state in ways[now.state]
        assert (after.state is State.OPEN and now.state is not State.OPEN) == (after.round > now.round)
        assert after.labels <= rules.overlap
        assert after.skips <= rules.skips_max
        if after.state is State.OPEN:
            assert after.labels < rules.overlap
            assert after.skips < rules.skips_max
        now = after


def take(now: Progress, step: str, argument: object, rules: Rules) -> Progress:
    match step, argument:
        case "label", float(share):
            return tasks.labelled(now, share, rules)
        case "skip", _:
            return tasks.skipped(now, rules)
        case "review", (Verdict() as verdict, bool(label)):
            return tasks.reviewed(now, verdict, label=label, known=now.labels > 0)
        case _:
            return tasks.resolved(now, accept=bool(argument))


@given(rules=RULES, step=STEPS)
def test_nothing_but_a_new_round_moves_what_is_accepted(rules: Rules, step: tuple[str, object]) -> None:
    accepted = Progress(State.ACCEPTED, 1, rules.overlap)
    if step == ("review", (Verdict.REOPEN, True)) or step == ("review", (Verdict.REOPEN, False)):
        assert take(accepted, *step, rules) == Progress(State.OPEN, 2)
    else:
        with pytest.raises(AiosError):
            take(accepted, *step, rules)


def test_agreement_decides_between_labelled_and_disputed() -> None:
    rules = Rules(overlap=2, agreement_min=0.8)
    one = tasks.labelled(Progress(), 1.0, rules)
    assert one == Progress(State.OPEN, 1, 1)
    assert tasks.labelled(one, 0.8, rules).state is State.LABELLED
    assert tasks.labelled(one, 0.79, rules).state is State.DISPUTED
    with pytest.raises(LabelStateInvalid, match="without a label"):
        tasks.reviewed(tasks.labelled(one, 0.1, rules), Verdict.ACCEPT, label=False, known=True)


# What a label is.


@pytest.mark.parametrize(
    ("kind", "label"),
    [
        (Kind.CLASSIFICATION, Label()),
        (Kind.CLASSIFICATION, Label(choices=("x", "y"))),
        (Kind.CLASSIFICATION, Label(choices=("nobody",))),
        (Kind.CLASSIFICATION, Label(choices=("x",), spans=(Span(0, 1, "x"),))),
        (Kind.MULTI_LABEL, Label(choices=("x", "x"))),
        (Kind.SPANS, Label(spans=(Span(0, 0, "x"),))),
        (Kind.SPANS, Label(spans=(Span(0, 11, "x"),))),
        (Kind.BOXES, Label(boxes=(Box("x", 0, 0, 0, 1),))),
        (Kind.BOXES, Label(boxes=(Box("x", 5, 0, 6, 1),))),
        (Kind.BOXES, Label(boxes=(Box("x", float("nan"), 0, 6, 1),))),
        (Kind.BOXES, Label(boxes=(Box("x", 0, 0, float("inf"), 1),))),
        (Kind.POLYGONS, Label(polygons=(Polygon("x", ()),))),
        (Kind.POLYGONS, Label(polygons=(Polygon("x", ((0, 0, 1, 1, 2),)),))),
        (Kind.KEYPOINTS, Label(keypoints=(Keypoints("x", ()),))),
        (Kind.KEYPOINTS, Label(keypoints=(Keypoints("x", (Keypoint("a", 1, 1, 0),)),))),
        (Kind.KEYPOINTS, Label(keypoints=(Keypoints("x", (Keypoint("a", 1, 1), Keypoint("a", 2, 2))),))),
    ],
)
def test_a_label_that_cannot_be_is_refused(kind: Kind, label: Label) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_label(label, kind, {"x", "y"}, Size(10, 10, 10), "label")
    assert all(field.startswith("label") for field in refused.value.fields)


def test_a_label_has_one_form() -> None:
    boxes = Label(boxes=(Box("y", 1 / 3, 0, 1, 1), Box("x", -0.0, 0, 1, 1)))
    checked = check_label(boxes, Kind.BOXES, {"x", "y"}, Size(), "label")
    assert checked == Label(boxes=(Box("x", 0.0, 0, 1, 1), Box("y", 0.333333, 0, 1, 1)))
    assert check_label(checked, Kind.BOXES, {"x", "y"}, Size(), "label") == checked


# How alike labels are.


def test_overlaps_are_as_they_are_drawn() -> None:
    assert likeness.box_iou(Box("x", 0, 0, 2, 2), Box("x", 1, 1, 2, 2)) == pytest.approx(1 / 7, abs=1e-12)
    assert likeness.box_iou(Box("x", 0, 0, 1, 1), Box("x", 1, 0, 1, 1)) == 0
    moved = Polygon("x", ((1.0, 1.0, 3.0, 1.0, 3.0, 3.0, 1.0, 3.0),))
    assert likeness.polygon_iou(SQUARE, moved) == pytest.approx(1 / 7, abs=1e-12)
    bow_tie = Polygon("x", ((0.0, 0.0, 2.0, 2.0, 2.0, 0.0, 0.0, 2.0),))
    assert likeness.polygon_iou(SQUARE, bow_tie) == pytest.approx(0.5, abs=1e-12)
    assert likeness.span_f1([Span(0, 1, "x"), Span(2, 3, "x")], [Span(0, 1, "x")]) == pytest.approx(2 / 3)


_SIDE = st.integers(1, 40).map(float)
_BOX = st.builds(Box, st.sampled_from("xy"), _SIDE, _SIDE, _SIDE, _SIDE)


@given(st.lists(_BOX, max_size=4), st.lists(_BOX, max_size=4))
def test_likeness_is_symmetric_and_of_the_same_is_one(a: list[Box], b: list[Box]) -> None:
    alike = similarity_of(Kind.BOXES)
    mine, theirs = Label(boxes=tuple(a)), Label(boxes=tuple(b))
    assert alike(mine, mine) == pytest.approx(1)
    assert alike(mine, theirs) == pytest.approx(alike(theirs, mine))
    assert 0 <= alike(mine, theirs) <= 1 + 1e-12


@given(_BOX, _BOX)
def test_boxes_overlap_as_polygons_do(a: Box, b: Box) -> None:
    def outline(box: Box) -> Polygon:
        right, bottom = box.x + box.width, box.y + box.height
        return Polygon("x", ((box.x, box.y, right, box.y, right, bottom, box.x, bottom),))

    assert likeness.polygon_iou(outline(a), outline(b)) == pytest.approx(likeness.box_iou(a, b), abs=1e-9)


def test_points_coincide_when_they_are_near_for_the_object() -> None:
    def person(shift: float) -> Keypoints:
        return Keypoints("p", (Keypoint("head", shift, 0), Keypoint("foot", 0, 100)))

    assert likeness.keypoint_overlap(person(0), person(4)) == 1
    assert likeness.keypoint_overlap(person(0), person(20)) == 0.5


# What several come to.


def said(*choices: str) -> list[Label]:
    return [Label(choices=(choice,)) for choice in choices]


def test_most_decide() -> None:
    assert majority(Kind.CLASSIFICATION, said("x", "y", "x")).label.choices == ("x",)
    assert majority(Kind.CLASSIFICATION, said("x", "y", "x")).confidence == pytest.approx(2 / 3)
    several = [Label(choices=("x", "y")), Label(choices=("x",)), Label(choices=("x", "z"))]
    found = majority(Kind.MULTI_LABEL, several)
    assert found.label.choices == ("x",)
    assert found.confidence == pytest.approx(2 / 3)
    drawn = [Label(boxes=(Box("x", shift, 0, 10, 10),)) for shift in (0, 1, 7)]
    assert majority(Kind.BOXES, drawn).label == drawn[1]
    assert agreement(Kind.CLASSIFICATION, said("x", "x", "y")) == pytest.approx(1 / 3)


def crowd(items: int, accuracies: Sequence[float], seed: int) -> tuple[list[int], dict[int, dict[str, int]]]:
    """Truth of three classes, and what people of these accuracies say."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, items).tolist()
    votes = {
        item: {
            f"p{person}": right if rng.random() < accuracy else int((right + rng.integers(1, 3)) % 3)
            for person, accuracy in enumerate(accuracies)
        }
        for item, right in enumerate(truth)
    }
    return truth, votes


def test_dawid_and_skene_find_who_is_right() -> None:
    accuracies = (0.95, 0.9, 0.85, 0.4, 0.4, 0.4, 0.4)
    truth, votes = crowd(500, accuracies, seed=1)

    found = dawid_skene(votes, 3)

    estimated = [int(found.probabilities[item].argmax()) for item in range(500)]
    names = ["a", "b", "c"]
    most = [
        majority(Kind.CLASSIFICATION, said(*(names[vote] for vote in votes[item].values()))).label.choices[0]
        for item in range(500)
    ]
    right = np.mean(np.array(estimated) == truth)
    assert right > 0.97 > np.mean([names.index(each) for each in most] == np.array(truth)) + 0.02
    for person, accuracy in enumerate(accuracies):
        assert found.accuracy[f"p{person}"] == pytest.approx(accuracy, abs=0.06)
    assert all(each.sum() == pytest.approx(1) for each in found.probabilities.values())


@given(st.integers(1, 4), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_people_who_agree_are_believed(people: int, seed: int) -> None:
    truth, votes = crowd(10, [1.0] * people, seed)
    found = dawid_skene(votes, 3)
    assert [int(found.probabilities[item].argmax()) for item in range(10)] == truth


def test_several_classes_are_weighed_one_by_one() -> None:
    answers = {
        item: {who: Label(choices=("x",) if item % 2 else ("x", "y")) for who in "abc"} for item in range(6)
    }
    resolve = resolver(Kind.MULTI_LABEL, ["x", "y"], answers)
    assert [resolve(item).label.choices for item in range(2)] == [("x", "y"), ("x",)]


# Which to label next.


def test_the_least_sure_come_first() -> None:
    rows = [[0.98, 0.01, 0.01], [0.4, 0.3, 0.3], [0.5, 0.49, 0.01]]
    assert list(np.argsort(-sampling.entropy(rows))) == [1, 2, 0]
    assert list(np.argsort(-sampling.margin(rows))) == [2, 1, 0]
    assert list(np.argsort(-sampling.least_confidence(rows))) == [1, 2, 0]
    assert sampling.entropy([[0.25] * 4])[0] == pytest.approx(np.log(4), abs=1e-12)
    assert sampling.entropy([[1.0, 0.0]])[0] == 0


def test_what_is_chosen_lies_apart() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [10, 0], [0, 10], [10, 10]], float)
    points = np.concatenate([rng.normal(centre, 0.3, (20, 2)) for centre in centres])
    for choose in (sampling.k_center, sampling.k_means):
        assert sorted(index // 20 for index in choose(points, 4)) == [0, 1, 2, 3]
    assert sampling.k_center(points, 1, labelled=points[:60])[0] >= 60


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), max_size=8), st.integers(0, 10))
@settings(max_examples=50, deadline=None)
def test_each_is_chosen_once(points: list[tuple[int, int]], count: int) -> None:
    features = np.array(points, float).reshape(-1, 2)
    for choose in (sampling.k_center, sampling.k_means):
        chosen = choose(features, count)
        assert len(chosen) == len(set(chosen)) == min(count, len(points))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=3, max_size=9, unique=True))
@settings(max_examples=30, deadline=None)
def test_k_center_is_at_most_twice_as_far_as_the_best(points: list[tuple[int, int]]) -> None:
    x = np.array(points, float)

    def radius(chosen: Sequence[int]) -> float:
        distances = np.linalg.norm(x[:, None] - x[list(chosen)][None], axis=2)
        return float(distances.min(axis=1).max())

    best = min(radius(each) for each in combinations(range(len(x)), 2))
    assert radius(sampling.k_center(x, 2)) <= 2 * best + 1e-9

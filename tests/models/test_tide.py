"""Kinds of errors, on boxes made by hand, and the words about what was missed."""

import numpy as np
import pytest
import torch

from yolov5_featviz.arrays.boxes import Boxes
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.detections import Candidates, Thresholds, select
from yolov5_featviz.models.targets import candidate_case, cases_of, class_number, parse_target
from yolov5_featviz.models.tide import counts, errors_of

NAMES = {0: "person", 1: "dog"}
THRESHOLDS = Thresholds(0.25, 0.45)
A, B, FAR = (0, 0, 100, 100), (200, 0, 300, 100), (500, 500, 600, 600)


def found(*rows, thresholds=THRESHOLDS):
    """Detections among candidates, each a box and its scores of both classes."""
    boxes = torch.tensor([box for box, *_ in rows], dtype=torch.float32).reshape(-1, 4)
    scores = torch.tensor([list(scores) for _, *scores in rows]).reshape(-1, 2)
    return select(Candidates(boxes, scores, lambda row, kind: scores[row, kind]), NAMES, thresholds)


def labels(*pairs):
    boxes = np.array([box for box, _ in pairs], np.float32).reshape(-1, 4)
    return Boxes(boxes, labels=[NAMES.get(n, str(n)) for _, n in pairs], classes=np.array([n for _, n in pairs], int))


def right(box, dx):
    return box[0] + dx, box[1], box[2] + dx, box[3]


def kinds(detections, truth):
    return [(case.kind, case.number, case.detection) for case in errors_of(detections, truth, THRESHOLDS)]


def test_nothing_is_wrong():
    assert kinds(found((A, 0.9, 0.1), (B, 0.0, 0.8)), labels((A, 0), (B, 1))) == []
    assert kinds(found(), labels()) == []


@pytest.mark.parametrize(
    ("rows", "truth", "expected", "note"),
    [
        ([(A, 0.9, 0.0)], [], ("false", 0, 0), "the image has no labelled object"),
        ([(A, 0.9, 0.0)], [(FAR, 0)], ("false", 0, 0), "no labelled object there"),
        ([(A, 0.9, 0.0)], [(A, 1)], ("wrong class", 0, 0), "labelled dog (overlap 1.00)"),
        # shifted by 60 of 100: 40 / 160
        ([(A, 0.9, 0.0)], [(right(A, 60), 0)], ("poor box", 0, 0), "overlaps a person by 0.25, less than half"),
        # both wrong: TIDE's sixth kind
        ([(A, 0.9, 0.0)], [(right(A, 60), 1)], ("false", 0, 0), "nearest label: dog (overlap 0.25)"),
    ],
)
def test_one_error(rows, truth, expected, note):
    cases = [case for case in errors_of(found(*rows), labels(*truth), THRESHOLDS) if case.kind != "missed"]
    assert [(case.kind, case.number, case.detection) for case in cases] == [expected]
    assert cases[0].note == note


def test_what_a_poor_box_or_a_wrong_class_is_about_is_not_missed_as_well():
    assert [kind for kind, *_ in kinds(found((A, 0.9, 0.0)), labels((A, 1)))] == ["wrong class"]
    assert [kind for kind, *_ in kinds(found((A, 0.9, 0.0)), labels((right(A, 60), 0)))] == ["poor box"]
    assert [kind for kind, *_ in kinds(found((A, 0.9, 0.0)), labels((right(A, 60), 1)))] == ["missed", "false"]


def test_the_better_of_two_detections_is_the_right_one():
    """IoU of A and A shifted by 40 is 60 / 140 = 0.43, below the threshold of suppression; of both with a label in
    the middle 80 / 120."""
    detections = found((A, 0.6, 0.0), (right(A, 40), 0.9, 0.0))
    (case,) = errors_of(detections, labels((right(A, 20), 0)), THRESHOLDS)
    assert (case.kind, case.score, case.truth) == ("duplicate", pytest.approx(0.6), right(A, 20))
    assert case.note == "its person was found already (overlap 0.67)"


def test_a_detection_takes_the_label_that_it_overlaps_most():
    near, nearer = right(A, 30), right(A, 10)
    (case,) = errors_of(found((A, 0.9, 0.0)), labels((near, 0), (nearer, 0)), THRESHOLDS)
    assert (case.kind, case.truth) == ("missed", near)


@pytest.mark.parametrize(
    ("rows", "truth", "note"),
    [
        ([(A, 0.18, 0.0)], A, "best candidate 0.18, below 0.25"),
        ([(A, 0.18, 0.0), (A, 0.2, 0.9)], A, None),  # covered by a wrong class
        ([((50, 0, 100, 100), 0.91, 0.0), (A, 0.6, 0.0)], (0, 0, 50, 100), "suppressed by person 0.91 (overlap 0.50)"),
        ([(A, 0.3, 0.4), (right(A, 4), 0.0, 0.95)], A, None),
        ([(right(A, 49.7), 0.2, 0.0), (right(A, 51), 0.9, 0.0)], A, None),  # covered by a poor box
        ([(right(A, 10), 0.004, 0.2)], A, "no candidate of this class overlaps by half; nearest: dog 0.20"),
        ([(right(A, 80), 0.1, 0.05)], A, "no candidate overlaps by half; nearest: person 0.10 (overlap 0.11)"),
        ([(FAR, 0.1, 0.05)], A, "no candidate overlaps it"),
        ([], A, "the detector has no candidate"),
    ],
)
def test_why_an_object_was_missed(rows, truth, note):
    cases = errors_of(found(*rows), labels((truth, 0)), THRESHOLDS)
    missed = [case for case in cases if case.kind == "missed"]
    assert [case.note for case in missed] == ([] if note is None else [note])
    assert all(case.detection is None and case.truth == truth for case in missed)


def test_a_candidate_of_another_object_is_not_the_one_that_was_missed():
    """The second person's own candidate is faint, and one of the first's overlaps it, too."""
    one, other = A, right(A, 30)  # IoU 70 / 130 = 0.54
    detections = found((one, 0.9, 0.0), (right(one, 2), 0.8, 0.0), (right(other, 2), 0.1, 0.0))
    (case,) = errors_of(detections, labels((one, 0), (other, 0)), THRESHOLDS)
    assert (case.row, case.note) == (2, "best candidate 0.10, below 0.25")


def test_a_label_given_twice_or_over_the_edge():
    """Of two labels at one place, the second is missed by the best candidate left; both are cut to the image."""
    detections = found((A, 0.9, 0.0), (right(A, 2), 0.8, 0.0))
    (case,) = errors_of(detections, labels((A, 0), (A, 0)), THRESHOLDS)
    assert (case.kind, case.row, case.note) == ("missed", 1, "suppressed by person 0.90 (overlap 0.96)")
    wide, cut = (-100, 0, 100, 100), (0.0, 0.0, 640.0, 640.0)
    assert [case.kind for case in errors_of(detections, labels((wide, 0)), THRESHOLDS)] == []
    assert errors_of(found((A, 0.9, 0.0)), labels((wide, 0)), THRESHOLDS, cut) == []
    (poor,) = errors_of(found((A, 0.9, 0.0)), labels(((0, 0, 201, 100), 0)), THRESHOLDS)
    assert poor.note == "overlaps a person by 0.498, less than half"
    (case,) = cases_of(found(((-100, 0, 100, 100), 0.9, 0.0)), "person@0,0,100,100", THRESHOLDS, tuple, cut)
    assert case.detection == 0


def test_only_a_better_detection_suppresses():
    detections = found(
        (A, 0.9, 0.0), (right(A, 40), 0.3, 0.0), (right(A, 35), 0.5, 0.0), thresholds=Thresholds(0.25, 0.45)
    )
    assert len(detections) == 2
    note = candidate_case(detections, 2, 0, THRESHOLDS).note
    assert note == "suppressed by person 0.90 (overlap 0.48)"


def test_the_worst_comes_first():
    """A miss whose best candidate has 0.1 counts 0.9, a false detection its score."""
    detections = found((A, 0.1, 0.0), (B, 0.95, 0.0), (FAR, 0.0, 0.5))
    cases = errors_of(detections, labels((A, 0)), THRESHOLDS)
    assert [(case.kind, round(case.score, 2)) for case in cases] == [("false", 0.95), ("missed", 0.1), ("false", 0.5)]
    assert counts((NAMES[case.number], case.kind) for case in cases) == {
        "dog": {"missed": 0, "false": 1, "wrong class": 0, "poor box": 0, "duplicate": 0},
        "person": {"missed": 1, "false": 1, "wrong class": 0, "poor box": 0, "duplicate": 0},
    }


def test_labels_of_another_class_list():
    with pytest.raises(FeatvizError, match="class 7, the model has classes 0 to 1: they are of another class list"):
        errors_of(found((A, 0.9, 0.0)), labels((A, 7)), THRESHOLDS)


def test_random_boxes_against_the_rules_written_out():
    """Counts of each kind for random boxes, by plain loops."""
    random = np.random.default_rng(0)
    seen = set()
    for _ in range(60):

        def boxes(n):
            corner, size = random.uniform(0, 150, (n, 2)), random.uniform(40, 90, (n, 2))
            return np.concatenate([corner, corner + size], 1).astype(np.float32)

        truth = labels(*[(tuple(box), int(random.integers(2))) for box in boxes(5)])
        rows = [(tuple(box), *random.permutation([random.uniform(0.3, 1), 0.0]).astype(np.float32)) for box in boxes(7)]
        rows += [
            (tuple(box + random.normal(0, 6, 4).astype(np.float32)), *row)
            for box, row in zip(truth.xyxy, [(0.9, 0.0), (0.0, 0.8)])
        ]
        detections = found(*rows, thresholds=Thresholds(0.25, 0.9))
        expected = by_rules(detections, truth)
        assert sorted(kind for kind, *_ in kinds(detections, truth)) == sorted(expected)
        seen |= set(expected)
    assert seen == {"missed", "false", "wrong class", "poor box", "duplicate"}


def by_rules(detections, truth):
    def iou(a, b):
        w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        inter = max(w, 0) * max(h, 0)
        return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)

    boxes, classes = detections.boxes.tolist(), detections.classes.tolist()
    order = sorted(range(len(boxes)), key=lambda i: -float(detections.scores[i]))
    taken, good, kinds = set(), set(), []
    for i in order:
        options = [
            (iou(boxes[i], box), g)
            for g, (box, k) in enumerate(zip(truth.xyxy.tolist(), truth.classes))
            if k == classes[i] and g not in taken and iou(boxes[i], box) >= 0.5
        ]
        if options:
            taken.add(max(options)[1])
            good.add(i)
    covered = set(taken)
    for i in order:
        if i in good:
            continue
        own = [
            (iou(boxes[i], b), g) for g, (b, k) in enumerate(zip(truth.xyxy.tolist(), truth.classes)) if k == classes[i]
        ]
        other = [
            (iou(boxes[i], b), g) for g, (b, k) in enumerate(zip(truth.xyxy.tolist(), truth.classes)) if k != classes[i]
        ]
        best, label = max(own, default=(0, None))
        rival, rivals = max(other, default=(0, None))
        if 0.1 <= best < 0.5:
            kinds.append("poor box")
            covered.add(label)
        elif rival >= 0.5:
            kinds.append("wrong class")
            covered.add(rivals)
        else:
            kinds.append("duplicate" if best >= 0.5 else "false")
    return kinds + ["missed"] * (len(truth) - len(covered))


# Targets


def test_targets_are_parsed():
    assert parse_target(None) == ("", None, None) and parse_target(0) == ("0", None, None)
    assert parse_target("person:2") == ("person", 2, None) and parse_target(":0") == ("", 0, None)
    assert parse_target("traffic light@1,2,3.5,4") == ("traffic light", None, (1, 2, 3.5, 4))
    assert parse_target("@1,2,3,4") == parse_target([1, 2, 3, 4]) == ("", None, (1, 2, 3, 4))
    for wrong in ("person:x", "a@1,2,3", "a@1,2,3,x", "@3,0,1,1", [1, 2]):
        with pytest.raises(FeatvizError, match="target"):
            parse_target(wrong)


def test_classes_are_named():
    assert class_number("", NAMES) is None and class_number("dog", NAMES) == 1 and class_number("7", {}) == 7
    with pytest.raises(FeatvizError, match="no class 'dgo': did you mean dog"):
        class_number("dgo", NAMES)
    with pytest.raises(FeatvizError, match="no class '7': there are"):
        class_number("7", NAMES)
    with pytest.raises(FeatvizError, match="no class 'dog': give its number"):
        class_number("dog", {})


def test_a_place_gives_the_detection_there_or_the_best_candidate():
    detections = found((A, 0.9, 0.0), (right(A, 2), 0.0, 0.1), (B, 0.2, 0.1), (right(B, 3), 0.15, 0.05))
    (case,) = cases_of(detections, "person@0,0,100,100", THRESHOLDS)
    assert (case.detection, case.note) == (0, "")
    (case,) = cases_of(detections, "dog@0,0,100,100", THRESHOLDS)
    assert (case.row, case.number, case.detection, case.note) == (1, 1, None, "best candidate 0.10, below 0.25")
    (case,) = cases_of(detections, "@200,0,300,100", THRESHOLDS)
    assert (case.row, case.number) == (2, 0)
    (case,) = cases_of(detections, "@20,0,30,10", THRESHOLDS, lambda box: [edge * 10 for edge in box])
    assert (case.row, case.number) == (2, 0)
    with pytest.raises(FeatvizError, match="no candidate overlaps 700,0,800,9 by half"):
        cases_of(detections, "@700,0,800,9", THRESHOLDS)
    with pytest.raises(FeatvizError, match="no dog was detected; found: 1 × person"):
        cases_of(detections, "dog", THRESHOLDS)
    with pytest.raises(FeatvizError, match=r"nothing was detected above 0[.]25"):
        cases_of(found((A, 0.1, 0.0)), None, THRESHOLDS)


def test_the_fate_of_a_candidate_of_another_class():
    detections = found((A, 0.3, 0.4))
    assert candidate_case(detections, 0, 0, THRESHOLDS).note == "best candidate 0.30, taken for dog 0.40"
    full = Thresholds(0.25, 0.45, 1)
    detections = found((A, 0.9, 0.0), (B, 0.8, 0.0), thresholds=full)
    assert candidate_case(detections, 1, 0, full).note == "best candidate 0.80, not among the 1 that the detector keeps"

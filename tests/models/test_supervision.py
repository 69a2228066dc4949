"""Detections to and from supervision's type, where it is installed (`make test-transformers`)."""

import numpy as np
import pytest
import torch

import yolov5_featviz as fv
from yolov5_featviz.attribution.d_rise import d_rise

supervision = pytest.importorskip("supervision")

BOXES = np.array([[0, 0, 10, 10], [5, 5, 20, 20]], np.float64)


def test_there_and_back():
    given = supervision.Detections(
        BOXES,
        confidence=np.array([0.9, 0.3]),
        class_id=np.array([2, 0]),
        data={"class_name": np.array(["tie", "person"])},
    )
    found = fv.Detections.from_supervision(given)
    assert [found.label(i) for i in range(2)] == ["tie 0.90", "person 0.30"]
    again = found.to_supervision()
    np.testing.assert_allclose(again.xyxy, given.xyxy)
    np.testing.assert_allclose(again.confidence, given.confidence)
    np.testing.assert_array_equal(again.class_id, given.class_id)
    np.testing.assert_array_equal(again.data["class_name"], given.data["class_name"])
    with pytest.raises(fv.FeatvizError, match="scores have no gradient: take d-rise"):
        found.why(0)


def test_without_scores_names_or_boxes():
    bare = fv.Detections.from_supervision(supervision.Detections(BOXES))
    assert bare.scores.tolist() == [1, 1] and bare.label(0) == "class 0 1.00"
    assert len(fv.Detections.from_supervision(supervision.Detections.empty())) == 0
    assert len(fv.Detections.from_supervision(supervision.Detections.empty()).to_supervision()) == 0


def test_d_rise_of_any_detector_through_supervision():
    """The score of its one object is the brightness of a corner, so that the map is highest there."""

    def find(output):
        score = output[0, :, :8, :8].mean().reshape(1).numpy()
        box = np.array([[0.0, 0, 8, 8]])
        return fv.Detections.from_supervision(supervision.Detections(box, confidence=score, class_id=np.array([0])))

    (one,) = d_rise(torch.nn.Identity(), torch.ones(1, 3, 32, 32), find(torch.ones(1, 3, 32, 32)), find=find, cells=4)
    assert one[:8, :8].mean() > 1.2 * one[16:, 16:].mean()

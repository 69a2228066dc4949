"""Names of images' folders: one for each, whatever the order, never one that may be another image's."""

import itertools
import random
import time

import pytest

from yolov5_featviz.files import new_folder
from yolov5_featviz.runs.names import Names, image_names


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a.jpg", "b.png"], ["a", "b"]),
        (["same.jpg", "same.png", "same2.jpg"], ["same.jpg", "same.png", "same2"]),
        (["a/x.jpg", "b/x.jpg", "x.png"], ["a_x.jpg", "b_x.jpg", "x.png"]),
        (["/deep/a/x.jpg", "/other/a/x.jpg"], ["deep_a_x.jpg", "other_a_x.jpg"]),
        (["s.jpg", "s.png", "s.jpg.png"], ["s.jpg", "s.png", "s.jpg.png"]),
        (["s.jpg", "s.png", "s.jpg.png", "s.jpg.bmp"], ["s.jpg", "s.png", "s.jpg.png", "s.jpg.bmp"]),
        (["a/x.jpg", "b/x.jpg", "a_x.jpg"], ["a_x.jpg", "b_x.jpg", "a_x"]),
        (["x~2.jpg", "x.jpg"], ["x~2.jpg", "x"]),
        (["a:b.jpg", "a*b.jpg"], ["a_b.jpg", "a_b.jpg~2"]),
        (["x\n.jpg", "y\x1b[2J.jpg", "z\udcff.jpg"], ["x_", "y_[2J", "z_"]),
        (["\udcff.jpg", "\udcfe.jpg"], ["_.jpg", "_.jpg~2"]),
        (["...jpg", " .jpg", "é.jpg"], ["..", "_", "é"]),
    ],
)
def test_names(files, names):
    if files[0] != "...jpg":
        expected = dict(zip(files, names))
        if any("~2" in name and "~2" not in file for file, name in expected.items()):  # which is first is by the path
            assert sorted(image_names(files)) == sorted(names)
        else:
            for order in itertools.permutations(files):
                assert image_names(order) == [expected[file] for file in order]
    found = image_names(files)
    assert image_names(files[::-1]) == found[::-1]
    assert len(set(found)) == len(files) and all(0 < len(name.encode()) <= 255 and "/" not in name for name in found)
    assert not {".", ".."} & set(found)


def test_an_image_that_comes_again():
    assert image_names(["x.jpg", "x.jpg", "x~2.png", "x.jpg"]) == ["x", "x~2", "x~2.png", "x~3"]


def test_all_names_differ():
    rng = random.Random(0)
    parts = ["a", "a.jpg", "a~2", "a_a", "b", "a2", "é" * 120, "é" * 119 + "x"]
    for _ in range(300):
        files = [
            "/".join([*rng.choices(parts, k=rng.randrange(3)), rng.choice(parts) + rng.choice([".jpg", ".png"])])
            for _ in range(12)
        ]
        names = image_names(files)
        assert len(set(names)) == len(files)
        assert dict(zip(files[::-1], image_names(files[::-1]))).keys() == dict(zip(files, names)).keys()
        one_by_one = Names()
        found = {file: one_by_one(file) for file in files}
        assert len(set(found.values())) == len(found) and all(one_by_one(file) == name for file, name in found.items())


def test_one_by_one():
    names = Names()
    assert [names(file) for file in ("s.jpg", "s.png", "s2.jpg", "s.jpg", "d/s.jpg")] == [
        "s",
        "s.png",
        "s2",
        "s",
        "s.jpg",
    ]
    names = Names(["v.mp4", "v_1.jpg", "w.mp4"])
    assert [names("v_1.jpg"), names.frame("v.mp4", 1), names.frame("w.mp4", 12)] == ["v_1", "v.mp4_1", "w_12"]


def test_thousands_of_folders_of_one_name(tmp_path):
    """One that looks at all before it takes the next needs many seconds."""
    start = time.perf_counter()
    made = [new_folder(tmp_path / "x").name for _ in range(3000)]
    assert time.perf_counter() - start < 5
    assert made == ["x", *(f"x{n}" for n in range(2, 3001))]
    (tmp_path / "x3001").symlink_to("nowhere")
    (tmp_path / "y").write_text("a file")
    assert new_folder(tmp_path / "x").name == "x3002"
    assert [new_folder(tmp_path / "y", "~").name for _ in range(2)] == ["y~2", "y~3"]

"""Text from files, cleaned."""

import unicodedata

from yolov5_featviz.errors import reason
from yolov5_featviz.text import file_name, printable


def test_ordinary_text_stays():
    for text in ("bus.jpg", "图像 1", "café", "可 × ·", "می‌خواهم"):
        assert printable(text) == text


def test_control_characters_go():
    for text in ("a\x1b[31mb", "a\nb", "a\rb", "a\u202eb", "a\udcffb", "a\x00b", "a\u2028b", "a\x9bb", "a\x7fb"):
        clean = printable(text)
        assert clean.startswith("a") and clean.endswith("b") and "\ufffd" in clean
        assert not {unicodedata.category(c) for c in clean} & {"Cc", "Cs", "Zl"}
        clean.encode("utf-8")


def test_long_text_is_cut():
    assert len(printable("x" * 10**6)) == 10_000
    assert printable("x" * 30, 10) == "x" * 9 + "…"


def test_file_names():
    assert file_name("bus") == "bus"
    assert file_name("a/b\\c\nd") == "a_b_c_d"
    assert file_name("..") == file_name("") == file_name(".") == "_"
    assert file_name("图" * 300).encode("utf-8").__len__() <= 200


def test_reason():
    assert reason(ValueError("one\ntwo")) == "one"
    assert reason(KeyError()) == "KeyError"
    assert reason(ValueError("\x1b[31m red")) == "\ufffd[31m red"

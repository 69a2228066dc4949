import os
import resource
import subprocess
import sys
import threading
import time

import pytest

import yolov5_featviz as fv
from yolov5_featviz.files import check_writable, new_folder, write
from yolov5_featviz.runs.saver import Saver


def test_write_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a" / "b.png"
    write(path, b"one")
    write(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["b.png"]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_full_disk_leaves_no_half_picture(tmp_path):
    """The system lets no file grow beyond 1000 bytes, as a full disk would not."""
    code = (
        "import signal, sys; from yolov5_featviz.files import write\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try: write(sys.argv[1], bytes(5000))\n"
        "except OSError as error: print('refused', error.errno)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "half.png")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.stdout.startswith("refused"), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_new_folder_never_takes_an_old_one(tmp_path):
    made = [new_folder(tmp_path / "runs" / "bus").name for _ in range(3)]
    assert made == ["bus", "bus2", "bus3"]


@pytest.mark.parametrize("folder", ["file/below", "/proc/nowhere/runs"])
def test_unwritable_folder(tmp_path, folder):
    (tmp_path / "file").write_text("")
    with pytest.raises(fv.FeatvizError, match="cannot write into"):
        check_writable(tmp_path / folder)
    check_writable(tmp_path / "new" / "deep")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_saver_holds_back_instead_of_piling_up():
    gate, running = threading.Event(), []
    saver = Saver(waiting=3)

    def feed():
        for i in range(10):
            saver.submit(lambda i=i: (gate.wait(10), running.append(i)))

    feeder = threading.Thread(target=feed)
    feeder.start()
    time.sleep(0.2)
    assert feeder.is_alive() and not running
    gate.set()
    feeder.join(10)
    saver.close()
    assert running == list(range(10)) and saver.done == 10


def test_saver_holds_back_what_is_large():
    gate, running, started = threading.Event(), [], []
    saver = Saver(size=100)

    def feed():
        for size in (60, 30, 20, 500):
            saver.submit(lambda size=size: (gate.wait(10), running.append(size)), size)
            started.append(size)

    feeder = threading.Thread(target=feed)
    feeder.start()
    time.sleep(0.2)
    assert started == [60, 30]
    gate.set()
    feeder.join(10)
    saver.close()
    assert started == running == [60, 30, 20, 500]


def test_saver_keeps_errors_and_goes_on():
    saver, done = Saver(), []

    def fail():
        raise OSError("no space")

    saver.submit(fail)
    saver.submit(lambda: done.append(1))
    saver.close()
    assert done == [1] and [str(e) for e in saver.errors] == ["no space"]

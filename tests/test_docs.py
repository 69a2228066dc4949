"""The reference says what the code says."""

import subprocess
import sys

from conftest import ROOT


def test_the_api_reference_is_up_to_date():
    done = subprocess.run(
        [sys.executable, "scripts/api_reference.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr + "run python scripts/api_reference.py"


def test_links_lead_somewhere():
    import re

    pages = [*ROOT.glob("README*.md"), *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"

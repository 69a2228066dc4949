"""Make a figure for a paper from a YAML file: python scripts/paper_figure.py FIGURE.yaml [--output FILE...].

The same as ``yolov5-featviz figure``; docs/figures.md says what may stand in the file, and
figure_layers.yaml and figure_comparison.yaml, beside this one, are examples.
"""

import sys

from yolov5_featviz.cli import main

if __name__ == "__main__":
    sys.exit(main(["figure", *sys.argv[1:]]))

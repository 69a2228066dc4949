"""Feature maps: the output of a layer, with drawing methods."""

from __future__ import annotations

from typing import Any, Iterator, Optional

from yolov5_featviz.draw import grid, heatmap, rgb
from yolov5_featviz.draw.channels import ChannelSpec
from yolov5_featviz.draw.heatmap import HeatMap
from yolov5_featviz.draw.picture import Picture
from yolov5_featviz.models.layer_output import LayerOutput


class FeatureMap(LayerOutput):
    """One layer's output for one image; see :class:`~yolov5_featviz.models.layer_output.LayerOutput` for the fields."""

    def grid(
        self, channels: ChannelSpec = "64", norm: str = "channel", cmap: str = "viridis", **options: Any
    ) -> Picture:
        """Draw channels side by side; see :func:`yolov5_featviz.draw.grid.grid` for the arguments."""
        return grid.grid(self, channels=channels, norm=norm, cmap=cmap, **options)

    def grids(self, channels: ChannelSpec = "64", **options: Any) -> Iterator[Picture]:
        """Draw the same on pages of at most 256 channels each."""
        return grid.grids(self, channels, **options)

    def heatmap(self, reduce: str = "mean", channels: ChannelSpec = "all", norm: Optional[str] = None) -> HeatMap:
        """Reduce all channels, or some, to one map; see :func:`yolov5_featviz.draw.heatmap.heatmap`."""
        return heatmap.heatmap(self, reduce, channels, norm)

    def channel(self, k: int, norm: str = "channel") -> HeatMap:
        """Return one channel by number, to be drawn alone or over the image."""
        return heatmap.channel(self, k, norm)

    def pca(self, channels: ChannelSpec = "all", **options: Any) -> Picture:
        """Draw three principal components in colours; see :func:`yolov5_featviz.draw.rgb.pca_picture`."""
        return rgb.pca_picture(self, channels, **options)

    def rgb(self, norm: str = "signed-robust", **options: Any) -> Picture:
        """Draw three channels as red, green and blue; see :func:`yolov5_featviz.draw.rgb.rgb_picture`."""
        return rgb.rgb_picture(self, norm, **options)

    def _repr_png_(self) -> bytes:
        return self.grid().to_png()

    def _repr_html_(self) -> str:
        return self.grid()._repr_html_()

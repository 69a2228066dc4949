"""Formulas by which class activation maps weight a layer's activations, where no package is needed.

``A`` are the activations and ``G`` the gradients of the score with respect to them, ``[1, C, H, W]`` each. Maps are
``[H, W]``, float32, and signed: the ReLU that ends most formulas is taken when a map is scaled.
"""

from __future__ import annotations

from typing import Callable, Dict, Optional

import numpy as np

BLUR = (1, 4, 6, 4, 1)  # binomial coefficients: a Gaussian of standard deviation 1


def odam(activations: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Compute ODAM: the sum over channels of ``blur(G) A`` at each place.

    C. Zhao and A. B. Chan (ICLR 2023, *IEEE Trans. Pattern Anal. Mach. Intell.* 2024), for one attribute of one
    detection. The paper smooths the gradients locally; the authors' published code does not. The size is ours:
    ``blur`` filters each channel with a Gaussian whose standard deviation is one cell of the layer, by the binomial
    coefficients 1 4 6 4 1 along rows and columns, edge cells repeated. It removes what alternates from cell to cell.
    """
    height, width = gradients.shape[2:]
    around = np.pad(gradients[0], ((0, 0), (2, 2), (2, 2)), mode="edge")
    rows = np.sum([weight * around[:, i : i + height] for i, weight in enumerate(BLUR)], axis=0)
    blurred = np.sum([weight * rows[:, :, i : i + width] for i, weight in enumerate(BLUR)], axis=0) / sum(BLUR) ** 2
    return np.asarray((blurred * activations[0]).sum(axis=0), np.float32)


def ss_grad_cam_plus_plus(activations: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Compute Spatial Sensitive Grad-CAM++: the sum over channels of ``w S A``.

    T. Yamauchi (CVPR workshops 2024), with, for each channel:

    - ``S = |G| / max |G|``, the space map, which is what makes it depend on one detection (T. Yamauchi and M.
      Ishikawa, ICIP 2022);
    - ``w``, the sum of ``alpha max(G, 0)`` over the places, ``alpha = G² / (2 G² + G³ sum(M A))``, the weights of
      Grad-CAM++ (A. Chattopadhay et al., WACV 2018), of which ``alpha = 1 / (2 + G sum(M A))`` is the same and
      needs no small number against division by zero;
    - ``M``, the places that count for the detection: here those where ``G`` is not zero. The sum is over
      ``max(A, 0)``: the weights assume activations without negative values, and with some the denominator
      could pass through zero.
    """
    values, slopes = activations[0].astype(np.float64), gradients[0].astype(np.float64)
    rising, steepness = slopes.clip(min=0), np.abs(slopes)
    counted = (values.clip(min=0) * (slopes != 0)).sum(axis=(1, 2), keepdims=True)
    weights = (rising / (2 + rising * counted)).sum(axis=(1, 2), keepdims=True)
    most = steepness.max(axis=(1, 2), keepdims=True)
    space = steepness / np.where(most > 0, most, 1)
    return np.asarray((weights * space * values).sum(axis=0), np.float32)


def eigen_cam(activations: np.ndarray, gradients: Optional[np.ndarray] = None) -> np.ndarray:
    """Compute Eigen-CAM; grad-cam's needs memory quadratic in the number of cells, and its sign is arbitrary."""
    channels, height, width = activations[0].shape
    cells = np.nan_to_num(activations[0]).reshape(channels, -1).T.astype(np.float64)
    mean = cells.mean(axis=1)
    cells -= cells.mean(axis=0)
    along = cells @ np.linalg.svd(cells, full_matrices=False)[2][0]
    agreeing: np.ndarray = along * (-1 if along @ (mean - mean.mean()) < 0 else 1)
    return agreeing.reshape(height, width).astype(np.float32)


def layer_cam(activations: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Compute Layer-CAM: the sum over channels of ``max(G, 0) A`` (P.-T. Jiang et al., 2021)."""
    return np.asarray((gradients[0].clip(min=0) * activations[0]).sum(axis=0), np.float32)


FORMULAS: Dict[str, Callable[..., np.ndarray]] = {
    "layer-cam": layer_cam,
    "odam": odam,
    "ss-grad-cam++": ss_grad_cam_plus_plus,
    "eigen-cam": eigen_cam,
}

"""Means and paired differences over images: intervals, a permutation test, effect size, and Holm's correction.

Detections in one image are not independent of each other; images are taken to be. What is resampled, or has its sign
flipped, is therefore an image with all its values.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Dict, Hashable, NamedTuple, Sequence, Tuple, Union

import numpy as np

from yolov5_featviz.errors import FeatvizError

LEAST = 6  # images; with fewer, no two-sided sign-flip test can reach p < .05 (2 ** (1 - n)), so no conclusion
RESAMPLES = 2000  # of the bootstrap
EXACT = 12  # most images of which all sign flips are enumerated
FLIPS = 20_000  # random sign flips for more images
BLOCK = 1 << 20  # numbers held at a time
FLOOR = 1 / 3  # least standard error of a resample, relative to that of the values
ROUNDING = 1e-9  # relative to the values; smaller differences are 0
Values = Union[Sequence[float], np.ndarray]


class Estimate(NamedTuple):
    """Mean of values with its interval.

    Attributes:
        mean: of all values; NaN if there are none.
        low, high: ends of the interval; NaN with fewer than ``LEAST`` images. They are not cut to any range.
        images: number of images that have a value.
        values: number of values.
    """

    mean: float
    low: float
    high: float
    images: int
    values: int


class Difference(NamedTuple):
    """Mean paired difference with its interval and test.

    Attributes:
        difference: mean of all paired differences; NaN if there are none.
        low, high: ends of the interval; NaN with fewer than ``LEAST`` images.
        p: two-sided p value of the sign-flip test, above 0; NaN with fewer than ``LEAST`` images.
        effect: Cohen's d_z; NaN with fewer than ``LEAST`` images, or if it does not vary between images.
        images: number of images that have a pair.
        values: number of pairs.
    """

    difference: float
    low: float
    high: float
    p: float
    effect: float
    images: int
    values: int


def estimate(
    values: Values,
    images: Sequence[Hashable],
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Compute the mean of values and its bootstrap interval over images.

    The interval is the equal-tailed studentised bootstrap, ``mean - t*_(1-a) se, mean - t*_a se`` with
    ``t* = (mean* - mean) / se*`` (B. Efron and R. J. Tibshirani, *An Introduction to the Bootstrap*, 1993, sec. 12.5;
    A. C. Davison and D. V. Hinkley, *Bootstrap Methods and their Application*, 1997, sec. 5.2), images being drawn
    with all their values. With ``n`` images of ``m_i`` values that sum to ``s_i``, the mean is the ratio
    ``r = sum(s) / M``, ``M = sum(m)``; its standard error is the jackknife's, linearised:
    ``se² = (n - 1) / n sum(((s_i - r m_i) / (M - m_i))²)``. ``se*`` is at least ``se / 3``: otherwise one outlier can
    make an interval of few images many times longer (see A. B. Owen, arXiv 2508.10083, 2025), at no gain in coverage.

    Where more than a tenth of a tail of the resamples does not vary, as for a few zeros and ones, t* is undefined; the
    interval then is the expanded percentile one (T. C. Hesterberg, *What Teachers Should Know About the Bootstrap*,
    *The American Statistician* 69, 2015, sec. 5).

    Args:
        values: ``[N]``; what is not finite is undefined and left out.
        images: ``[N]``, the image that each is of.
        level: coverage of the interval.
        resamples: number of resamples.
        seed: of their random numbers.
    """
    sums, counts = _by_image(np.asarray(values, np.float64), images)
    mean, low, high = _interval(sums, counts, level, resamples, seed, symmetric=False)
    return Estimate(mean, low, high, len(sums), int(counts.sum()))


def paired_difference(
    values: Values,
    reference: Values,
    images: Sequence[Hashable],
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Compute the mean of ``values - reference``, with a bootstrap interval, a test and an effect size over images.

    The interval is the symmetric studentised bootstrap, ``r ± |t*|_level se`` (P. Hall, *On Symmetric Bootstrap
    Confidence Intervals*, *J. R. Stat. Soc. B* 50, 1988), with ``se`` and ``t*`` of :func:`estimate`. The equal-tailed
    one covers too little where differences are symmetric with heavy tails, as those of skewed values are.

    The test is the two-sided sign-flip permutation test of the images' summed differences, for the hypothesis that
    these are distributed symmetrically around 0: all flips for up to ``EXACT`` images, else ``FLIPS`` random ones and
    ``p = (1 + b) / (1 + FLIPS)``, ``b`` of them at least as extreme as observed (B. Phipson and G. K. Smyth,
    *Permutation P-values Should Never Be Zero*, *Stat. Appl. Genet. Mol. Biol.* 9, 2010).

    The effect size is ``d_z = mean(D) / sd(D)``, with the images' mean differences ``D`` and their sample standard
    deviation (J. Cohen, *Statistical Power Analysis for the Behavioral Sciences*, 1988, sec. 2.3.5).

    Args:
        values, reference: ``[N]``, paired; a pair with a value that is not finite is left out.
        images, level, resamples, seed: see :func:`estimate`.
    """
    a, b = np.asarray(values, np.float64), np.asarray(reference, np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.where(np.isfinite(a) & np.isfinite(b), a - b, np.nan)
        apart = np.where(np.abs(apart) <= ROUNDING * np.maximum(np.abs(a), np.abs(b)), 0.0, apart)
    sums, counts = _by_image(apart, images)
    mean, low, high = _interval(sums, counts, level, resamples, seed, symmetric=True)
    p, effect = float("nan"), float("nan")
    if len(sums) >= LEAST:
        p, effect = _sign_flips(sums, seed), _effect(sums / counts)
    return Difference(mean, low, high, p, effect, len(sums), int(counts.sum()))


def least_p(images: int, tests: int) -> float:
    """Return the smallest p value that the sign-flip test can have, corrected for so many tests by Holm's procedure."""
    return tests * (2.0 ** (1 - images) if images <= EXACT else 1 / (1 + FLIPS))


def holm(p: Values) -> np.ndarray:
    """Adjust p values for the number of tests by Holm's step-down procedure.

    ``max over j <= i of min(1, (m - j + 1) p_(j))``, ``p_(j)`` the j-th smallest of m (S. Holm, *A Simple Sequentially
    Rejective Multiple Test Procedure*, *Scand. J. Stat.* 6, 1979).

    Args:
        p: ``[m]``; NaN is no test: it stays NaN and is not counted.

    Returns:
        float64 ``[m]``.
    """
    given = np.asarray(p, np.float64)
    adjusted: np.ndarray = given.copy()
    tested = np.flatnonzero(~np.isnan(given))
    order = tested[np.argsort(given[tested], kind="stable")]
    steps = given[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


def _by_image(values: np.ndarray, images: Sequence[Hashable]) -> Tuple[np.ndarray, np.ndarray]:
    """Return the sum and number of the finite values of each image that has any, in order of appearance."""
    if len(values) != len(images):
        raise FeatvizError(f"{len(values)} values of {len(images)} images: give an image for each value")
    numbers: Dict[Hashable, int] = {}
    defined = np.isfinite(values)
    codes = np.array([numbers.setdefault(image, len(numbers)) for image, there in zip(images, defined) if there], int)
    return np.bincount(codes, values[defined], len(numbers)), np.bincount(codes, minlength=len(numbers)).astype(float)


def _interval(
    sums: np.ndarray, counts: np.ndarray, level: float, resamples: int, seed: int, symmetric: bool
) -> Tuple[float, float, float]:
    """Return the mean of images' values and the ends of its interval."""
    n, total = len(sums), counts.sum()
    nan = float("nan")
    if n == 0:
        return nan, nan, nan
    mean = float(sums.sum() / total)
    if n < LEAST:
        return mean, nan, nan
    residuals = sums - mean * counts
    error = float(_error(residuals[None], counts[None], np.zeros(1))[0])
    if error <= ROUNDING * np.abs(sums / counts).max():
        return mean, mean, mean
    shifts, errors = _resampled(residuals, counts, resamples, seed)
    tail = (1 - level) / 2
    if np.mean(errors <= ROUNDING * error) > tail / 10:
        low, high = _ends(shifts, _expanded(tail, n))
        return mean, mean + low, mean + high
    t = shifts / np.maximum(errors, FLOOR * error)
    if symmetric:
        high = _ends(np.abs(t), 2 * tail)[1]
        low = -high
    else:
        low, high = _ends(t, tail)
    return mean, mean - high * error, mean - low * error


def _resampled(residuals: np.ndarray, counts: np.ndarray, resamples: int, seed: int) -> Tuple[np.ndarray, np.ndarray]:
    """Return by how much the mean of each resample of images differs from the mean, and its standard error."""
    random = np.random.default_rng(seed)
    n, step = len(counts), max(1, BLOCK // len(counts))
    shifts, errors = [], []
    for start in range(0, resamples, step):
        drawn = random.integers(n, size=(min(step, resamples - start), n))
        r, m = residuals[drawn], counts[drawn]
        shift = r.sum(axis=1) / m.sum(axis=1)
        shifts.append(shift)
        errors.append(_error(r, m, shift))
    return np.concatenate(shifts), np.concatenate(errors)


def _error(residuals: np.ndarray, counts: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Return the jackknife's standard error of means, ``[B]``, of images ``[B, n]``, linearised."""
    n = counts.shape[1]
    left = counts.sum(axis=1, keepdims=True) - counts
    without = (residuals - shift[:, None] * counts) / left
    return np.asarray(np.sqrt((n - 1) / n * (without**2).sum(axis=1)))


def _ends(x: np.ndarray, tail: float) -> Tuple[float, float]:
    """Return the order statistics with a share of ``tail`` below, and above."""
    ordered = np.sort(x)
    k = min(max(int((len(x) + 1) * tail + 0.5), 1), len(x)) - 1
    return float(ordered[k]), float(ordered[len(x) - 1 - k])


def _expanded(tail: float, n: int) -> float:
    """Return the tail of the expanded percentile interval: ``Phi(sqrt(n / (n - 1)) t_(tail, n - 1))``."""
    z, f = NormalDist().inv_cdf(tail), n - 1
    # the quantile of Student's t: M. Abramowitz and I. A. Stegun, Handbook of Mathematical Functions, 26.7.5
    t = (
        z
        + (z**3 + z) / (4 * f)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * f**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * f**3)
    )
    return NormalDist().cdf((n / f) ** 0.5 * t)


def _sign_flips(sums: np.ndarray, seed: int) -> float:
    """Return the p value of the two-sided sign-flip test of ``[n]`` sums."""
    n = len(sums)
    observed = abs(sums.sum()) - ROUNDING * np.abs(sums).sum()  # sums in another order differ by rounding
    if n <= EXACT:
        signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
        return float(np.mean(np.abs(signs @ sums) >= observed))
    random = np.random.default_rng(seed)
    step = max(1, BLOCK // n)
    extreme = 0
    for start in range(0, FLIPS, step):
        signs = random.integers(2, size=(min(step, FLIPS - start), n), dtype=np.int8) * 2.0 - 1
        extreme += int((np.abs(signs @ sums) >= observed).sum())
    return (1 + extreme) / (1 + FLIPS)


def _effect(means: np.ndarray) -> float:
    """Return Cohen's d_z of the images' mean differences; NaN if they are all equal."""
    spread = float(means.std(ddof=1))
    return float(means.mean() / spread) if spread > ROUNDING * np.abs(means).max() else float("nan")

"""Intervals, the sign-flip test and Holm's correction: against scipy, brute force, and simulated data."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from yolov5_featviz.arrays import statistics
from yolov5_featviz.arrays.statistics import EXACT, FLIPS, LEAST, estimate, holm, paired_difference
from yolov5_featviz.errors import FeatvizError


def nan(*numbers):
    return all(math.isnan(number) for number in numbers)


def clusters(rng, images):
    """The image of each value; images have 1 to 6."""
    return np.repeat(np.arange(images), rng.integers(1, 7, images))


def student(rng, kind, images):
    """Values with a true mean: ``(values, images, mean)``."""
    one = np.arange(images)
    if kind == "normal":
        return rng.normal(3, 1, images), one, 3.0
    if kind == "exponential":
        return rng.exponential(1, images), one, 1.0
    if kind == "beta":  # shares of the area, of which most are small
        return rng.beta(0.5, 2, images), one, 0.2
    of = clusters(rng, images)
    own = rng.beta(2, 6, images)  # of an image; its detections lie around it
    if kind == "clusters":
        return rng.normal(own[of], 0.1), of, 0.25
    assert kind == "skewed clusters"
    return rng.beta(8 * own[of] + 0.2, 8 * (1 - own[of]) + 0.2), of, (8 * 0.25 + 0.2) / 8.4


KINDS = ("normal", "exponential", "beta", "clusters", "skewed clusters")


def coverage(draw, sets):
    """Share of simulated data sets whose interval holds the true mean."""
    return np.mean([low <= true <= high for low, high, true in map(draw, range(sets))])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("images", [10, 20, 50])
def test_an_interval_of_a_mean_holds_it_as_often_as_it_says(kind, images):
    rng = np.random.default_rng(images)

    def draw(k):
        values, of, true = student(rng, kind, images)
        found = estimate(values, of, resamples=999, seed=k)
        return found.low, found.high, true

    assert 0.93 <= coverage(draw, 1000) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("images", [10, 20, 50])
def test_an_interval_of_a_difference_holds_it_as_often_as_it_says(kind, images):
    """Each value has a part that both models share, and a shift that varies from image to image, which is skewed."""
    rng = np.random.default_rng(100 + images)

    def draw(k):
        values, of, _ = student(rng, kind, images)
        shift = 0.2 * rng.gamma(2, 0.5, images)[of]
        noise = rng.normal(0, 0.1, len(values))
        found = paired_difference(values + shift + noise, values, of, resamples=999, seed=k)
        return found.low, found.high, 0.2

    assert 0.93 <= coverage(draw, 1000) <= 0.97


@pytest.mark.slow
def test_an_interval_of_a_difference_with_heavy_tails_is_rather_too_long():
    """Of two independent exponential values: above the level, where the equal-tailed interval is below it."""
    rng = np.random.default_rng(0)

    def draw(k):
        a, b = rng.exponential(1, (2, 20))
        found = paired_difference(a, b, range(20), resamples=999, seed=k)
        return found.low, found.high, 0.0

    assert 0.95 <= coverage(draw, 1000) <= 0.985


@pytest.mark.slow
@pytest.mark.parametrize("images", [6, 10, 12, 20])
def test_a_true_hypothesis_is_rejected_at_most_as_often_as_the_level(images):
    """Two models of one skewed distribution, with several detections an image: p < .05 in at most 5 %."""
    rng = np.random.default_rng(images)
    count, sets = 0, 1500
    for k in range(sets):
        of = clusters(rng, images)
        own = rng.exponential(1, images)[of]
        a, b = (own * rng.exponential(1, len(of)) + rng.exponential(1, images)[of] for _ in range(2))
        count += paired_difference(a, b, of, resamples=100, seed=k).p < 0.05
    possible = {6: 2 / 64}.get(images, 0.05)  # of six images, only the two most extreme of 64 sign flips
    assert abs(count / sets - possible) < 3.3 * math.sqrt(possible * (1 - possible) / sets)


def test_the_interval_of_one_value_an_image_is_that_of_the_studentised_bootstrap():
    """Written out with scipy's standard error of each resample."""
    rng = np.random.default_rng(1)
    x = rng.gamma(2, 1, 15)
    found = estimate(x, range(15), resamples=40_000, seed=3)
    drawn = x[rng.integers(15, size=(40_000, 15))]
    t = (drawn.mean(axis=1) - x.mean()) / stats.sem(drawn, axis=1)
    low, high = x.mean() - np.quantile(t, [0.975, 0.025]) * stats.sem(x)
    assert found.mean == pytest.approx(x.mean()) and (found.images, found.values) == (15, 15)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02 * (high - low))
    percentile = stats.bootstrap((x,), np.mean, n_resamples=9999, method="percentile", random_state=0)
    assert found.high > percentile.confidence_interval.high  # the percentile interval is too short on the long side


def test_an_outlier_does_not_make_an_interval_endless():
    """Of resamples without it, the standard error is a hundredth: t* would be as large as a hundred."""
    x = np.array([0.8, 0.801, 0.799, 0.802, 0.8, 0.798, 0.801, 0.1])
    found = estimate(x, range(8))
    half = stats.t.ppf(0.975, 7) * stats.sem(x)
    assert 0.5 * half < found.mean - found.low < 2.5 * half and 0 < found.high - found.mean < half


def test_images_are_drawn_with_all_their_values():
    """Values that are copies within an image tell no more than one of them; the mean is over all values."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=20)
    once = estimate(x, range(20))
    thrice = estimate(np.repeat(x, 3), np.repeat(np.arange(20), 3))
    assert (thrice.mean, thrice.low, thrice.high) == pytest.approx((once.mean, once.low, once.high))
    assert (thrice.images, thrice.values) == (20, 60)
    apart = estimate(np.repeat(x, 3), range(60))
    assert apart.high - apart.low < 0.7 * (once.high - once.low)
    uneven = estimate([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"])
    assert uneven.mean == 0.75 and uneven.images == 2


def test_the_standard_error_is_that_of_the_jackknife_over_images():
    """A resample's studentised shift depends on it; here against leaving out one image at a time."""
    rng = np.random.default_rng(3)
    of = clusters(rng, 40)
    x = rng.normal(of % 5, 1)
    sums, counts = np.bincount(of, x), np.bincount(of).astype(float)
    mean = sums.sum() / counts.sum()
    without = np.array([x[of != i].mean() for i in range(40)])
    jackknife = math.sqrt(39 / 40 * ((without - mean) ** 2).sum())
    found = statistics._error((sums - mean * counts)[None], counts[None], np.zeros(1))[0]
    assert found == pytest.approx(jackknife, rel=1e-9)


def test_the_exact_test_is_brute_force():
    rng = np.random.default_rng(4)
    for images in (LEAST, 8, EXACT):
        of = clusters(rng, images)
        a, b = rng.normal(0.4, 1, len(of)), rng.normal(0, 1, len(of))
        sums = [math.fsum((a - b)[of == i]) for i in range(images)]
        flips = [
            abs(math.fsum(s * x for s, x in zip(signs, sums))) for signs in itertools.product((1, -1), repeat=images)
        ]
        p = sum(flip >= abs(math.fsum(sums)) - 1e-12 for flip in flips) / len(flips)
        assert paired_difference(a, b, of).p == p


def test_the_test_is_that_of_scipy():
    rng = np.random.default_rng(5)
    for images in (10, 40):
        a = rng.normal(0.3, 1, images)
        b = rng.normal(0, 1, images)
        options = {"permutation_type": "samples", "n_resamples": 50_000, "random_state": 0}
        other = stats.permutation_test((a, b), lambda x, y, axis: (x - y).mean(axis), vectorized=True, **options)
        found = paired_difference(a, b, range(images))
        assert found.p == pytest.approx(other.pvalue, abs=1e-12 if images == 10 else 0.01)
        assert found.p == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=0.03)
        assert found.effect == pytest.approx(stats.ttest_rel(a, b).statistic / math.sqrt(images))  # t = d_z sqrt(n)


def test_a_p_value_is_never_zero():
    up = np.arange(1, 31.0)
    assert paired_difference(up, 0 * up, range(30)).p == 1 / (1 + FLIPS)
    assert paired_difference(up[:8], 0 * up[:8], range(8)).p == 2 / 2**8


def test_the_least_number_of_images_is_the_first_that_can_be_significant():
    assert next(n for n in range(1, 20) if 2.0 ** (1 - n) < 0.05) == LEAST
    up = np.arange(1, 1.0 + LEAST)
    assert paired_difference(up, 0 * up, range(LEAST)).p == 2.0 ** (1 - LEAST)
    found = paired_difference(up[1:], 0 * up[1:], range(LEAST - 1))
    assert found.difference == up[1:].mean() and nan(found.low, found.high, found.p, found.effect)
    assert nan(*estimate(up[1:], range(LEAST - 1))[1:3])


def test_holm_by_hand():
    """Four tests, sorted .005, .01, .03, .04: times 4, 3, 2, 1 are .02, .03, .06, .04, of which none may fall."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.01, math.nan, 0.04, 0.03, 0.005]), [0.03, math.nan, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]).tolist() == [1, 1] and holm([]).shape == (0,) and nan(*holm([math.nan] * 2))
    assert holm([0.02, 0.02]).tolist() == [0.04, 0.04]


def test_what_has_no_mean_or_no_interval():
    nothing = estimate([], [])
    assert nan(*nothing[:3]) and nothing[3:] == (0, 0)
    assert nan(*paired_difference([], [], [])[:5])
    assert nan(estimate([math.nan] * 8, range(8)).mean)
    one = estimate([0.25], ["a"])
    assert one.mean == 0.25 and nan(one.low, one.high) and one[3:] == (1, 1)


def test_values_that_are_all_equal():
    assert estimate([0.3] * 9, range(9))[:3] == (pytest.approx(0.3),) * 3
    same = paired_difference([0.3] * 9, [0.3] * 9, range(9))
    assert same[:4] == (0, 0, 0, 1) and nan(same.effect)
    rng = np.random.default_rng(6)
    x = rng.random(20)
    rounded = paired_difference(x * (1 + 1e-12), x, range(20))  # all of one sign, by rounding
    assert rounded[:4] == (0, 0, 0, 1)
    always = paired_difference(x + 0.1, x, range(20))
    assert (always.difference, always.low, always.high) == pytest.approx((0.1, 0.1, 0.1))
    assert always.p == 1 / (1 + FLIPS) and nan(always.effect)  # d_z is infinite
    zeros = paired_difference(np.zeros(7), np.zeros(7), range(7))
    assert zeros[:4] == (0, 0, 0, 1)


def test_undefined_values_are_left_out():
    rng = np.random.default_rng(7)
    x, y = rng.random((2, 12))
    gaps = [math.nan, *x, 0.5, math.inf]
    images = [99, *range(12), 98, 97]
    assert estimate(gaps, images) == estimate([*x, 0.5], [*range(12), 98])
    assert paired_difference(gaps, [0.5, *y, math.nan, 0.5], images) == paired_difference(x, y, range(12))


@pytest.mark.parametrize("hits", range(1, 12))
def test_hits_and_misses_have_a_finite_interval_that_holds_the_mean(hits):
    """A resample of zeros and ones often does not vary, and has no studentised shift."""
    x = [1.0] * hits + [0.0] * (12 - hits)
    found = estimate(x, range(12))
    assert -1 < found.low < found.mean < found.high < 2
    found = paired_difference(x, [0.0] * 12, range(12))
    assert -1 < found.low < found.difference < found.high < 2
    if hits in (1, 2, 10, 11):  # the expanded percentiles are within the values
        mean = estimate(x, range(12))
        assert mean.low >= 0 and mean.high <= 1


def test_the_expanded_tail_is_that_of_student():
    for images in (LEAST, 10, 50):
        expected = stats.norm.cdf(stats.t.ppf(0.025, images - 1) * math.sqrt(images / (images - 1)))
        assert statistics._expanded(0.025, images) == pytest.approx(expected, rel=0.02)


def test_results_depend_on_the_seed_alone():
    rng = np.random.default_rng(8)
    x, y = rng.random((2, 30))
    np.random.seed(1)
    assert estimate(x, range(30)) == estimate(x, [f"image {k}" for k in range(30)])
    assert paired_difference(x, y, range(30)) == paired_difference(x, y, range(30))
    assert paired_difference(x, y, range(30)) != paired_difference(x, y, range(30), seed=1)
    assert estimate(x, range(30), level=0.5).high < estimate(x, range(30)).high
    swapped, found = paired_difference(y, x, range(30)), paired_difference(x, y, range(30))
    assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low))


def test_memory_is_bounded(monkeypatch):
    """Blocks of a few resamples give what one block gives, up to the random numbers."""
    rng = np.random.default_rng(9)
    x = rng.random(50)
    whole = paired_difference(x, x[::-1] + 0.1, range(50))
    monkeypatch.setattr(statistics, "BLOCK", 1000)
    parts = paired_difference(x, x[::-1] + 0.1, range(50))
    assert parts[:3] == pytest.approx(whole[:3]) and parts.p == pytest.approx(whole.p, abs=0.01)


def test_a_wrong_number_of_images():
    with pytest.raises(FeatvizError, match="3 values of 2 images"):
        estimate([1, 2, 3], [1, 2])

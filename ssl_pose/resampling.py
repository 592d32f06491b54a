"""A two-way interval: seeds and photos are both samples.

The paired t interval of the ledger knows the spread over seeds; this one also knows that the photos, of the test set
or of the pool, are a sample. A bootstrap draws both anew, each by itself and the same for both arms, and computes
every score anew (Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007, where it is shown to err on the
safe side: what seeds and photos do together counts more than once). It takes one seed fewer than there are, by which
the spread of a mean over few of them comes out right (Rao and Wu, JASA 1988), and the interval is its standard
deviation under the seeds' t distribution: the quantiles of so few seeds' draws would give intervals that are too
narrow.

Drawing a photo twice is counting its people twice, so a draw is a weight per photo, and the AP of many draws comes
from one sorting of the predictions. Matches of predictions with people are pycocotools'. For the PCK of pseudo-heatmaps
a photo of the pool weighs the same in every seed that judged one of its people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ssl_pose.matching import Matches
from ssl_pose.statistics import ALPHA, Interval, t_interval

NUM_DRAWS = 1000  # of photos: a standard deviation of so many draws is right to 2 %
SEED_DRAWS = 10  # for each of them, since a draw of seeds costs next to nothing
AT_ONCE = 100  # draws: of COCO's 6,352 validation persons an array of so many is 5 MB
RECALLS = np.linspace(0.0, 1.0, 101)  # at which COCO reads precision; their rounding is part of its AP


def weighted_ap(matches: Matches, weights: NDArray) -> NDArray[np.float64]:
    """AP (B,) in percent, each photo counted as often as `weights` (B, I) says; NaN where nobody is left.

    With all weights 1 it is, to the last digit, COCOeval's AP over all areas: precision, made to fall, at the
    first prediction that reaches each recall.
    """
    counts = weights[:, matches.photo].astype(np.float64)  # (B, D)
    total = (weights @ matches.people).astype(np.float64)[:, None]
    found = counts.cumsum(1)
    means = []
    for correct in matches.correct:
        hits = (counts * correct).cumsum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            recall, precision = hits / total, hits / np.maximum(found, np.spacing(1))
        highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        steps = np.diff(_recalls_reached(recall), axis=1, prepend=0)
        means.append((highest * steps).sum(1) / len(RECALLS))
    return 100.0 * np.mean(means, axis=0)


def _recalls_reached(recall: NDArray) -> NDArray[np.int64]:
    """How many of RECALLS each value of `recall` (B, D) reaches; 0 where it is no number."""
    place = np.nan_to_num(np.floor(recall * (len(RECALLS) - 1) + 0.5), nan=0.0).astype(np.int64)  # the nearest
    return np.where(np.isnan(recall), 0, place + (RECALLS[place] <= recall))


def weighted_share(hits: NDArray, joints: NDArray, weights: NDArray) -> NDArray[np.float64]:
    """Percent (B,) of hits among the joints of photos with `joints` (I,) each and `weights` (B, I); NaN of none."""
    with np.errstate(invalid="ignore"):
        return 100.0 * (weights @ hits) / (weights @ joints)


def draw_weights(number: int, num_draws: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Weights (B, I) of B draws of I photos with replacement."""
    return generator.multinomial(number, np.full(number, 1 / number), size=num_draws)


def two_way_interval(
    differences: Sequence[float], better: Mapping[int, NDArray], worse: Mapping[int, NDArray], alpha: float = ALPHA
) -> Interval | None:
    """Interval of the mean of per-seed `differences`; None for fewer than two seeds.

    `better` and `worse` hold the scores (B,) of either side by seed, one for each draw of the photos. Each of these
    meets SEED_DRAWS draws of seeds.
    """
    by_seed = np.stack([better[seed] - worse[seed] for seed in sorted(better)], axis=1)  # (B, S)
    num_draws, num_seeds = by_seed.shape
    if num_seeds < 2:
        return None
    even = np.full(num_seeds, 1 / num_seeds)
    seeds = np.random.default_rng(0).multinomial(num_seeds - 1, even, size=(SEED_DRAWS, num_draws))  # (R, B, S)
    means = np.einsum("rbs,bs->rb", seeds, by_seed) / (num_seeds - 1)
    return t_interval(float(np.mean(differences)), float(np.nanstd(means)), num_seeds, alpha)


def mean_ap(networks: Sequence[Matches], weights: NDArray) -> NDArray[np.float64]:
    """The mean AP (B,) over the reported networks of a run."""
    parts = [weights[start : start + AT_ONCE] for start in range(0, len(weights), AT_ONCE)]
    return np.mean([np.concatenate([weighted_ap(matches, part) for part in parts]) for matches in networks], axis=0)

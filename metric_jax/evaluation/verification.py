"""Verification: do these two belong together, yes or no?

A pair is accepted when its distance is at most a threshold. Of the genuine pairs (same class) and the impostors
(different classes), a threshold t makes two kinds of errors:

    FAR(t)   =  impostors accepted / impostors       false accept rate, also FMR, false match rate
    FNMR(t)  =  genuine rejected / genuine           false non-match rate
    TAR(t)   =  1 - FNMR(t)                          true accept rate

Both are step functions that change only at a measured distance. So the curves have one point at each distinct distance,
where all pairs at that distance are accepted together, and one more at which nothing is accepted. Between two points
there is no threshold; where a definition needs one (AUC, EER), the points are joined by straight lines, as if pairs at
the same distance came in random order.

    AUC  =  area under TAR over FAR  =  P(a genuine pair is closer than an impostor) + ½ P(they are equally far)
    EER  =  where FAR = FNMR on these lines

An FAR below 1/#impostors cannot be measured: a single impostor is more than that.

How far each number can be trusted is in `metric_jax.evaluation.rates`.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from metric_jax.evaluation import checks, intervals, rates
from metric_jax.evaluation.rates import Roc

FARS = (1e-1, 1e-2, 1e-3)
ROUNDING = 1e-9  # relative, that an FAR may lack of what was meant: 1 - 0.9 is a little less than 0.1


class _Steps(NamedTuple):
    """How many pairs of either kind each threshold of a `Roc` accepts."""

    thresholds: np.ndarray
    genuine: np.ndarray
    impostors: np.ndarray


def verification(
    distances: Any,
    is_same: Any,
    *,
    fars: Sequence[float] = FARS,
    folds: Any = None,
    subjects: Any = None,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """How well a threshold on the distance tells genuine pairs from impostors; the formulas stand above.

    The best threshold is chosen on the very pairs that ``accuracy`` is measured on, unless there are ``folds``: then,
    as in LFW's protocol, each fold is judged by the threshold that is best on all other folds. It means something only
    where both kinds are about as many: where nearly all pairs are impostors, accepting nothing is nearly always right.

    Every number comes with an interval, ``auc_low`` to ``auc_high`` and so on, by the bootstrap of both kinds of pairs
    that `metric_jax.evaluation.rates` describes. It takes pairs for independent, unless it is told whose they are: pass
    ``subjects`` wherever a subject is in several pairs, for the interval is much too narrow otherwise. That of the
    accuracy takes its threshold as given; with folds it is Wilson's, of all decisions together, and reaches to the mean
    over folds where these are unequal.

    Args:
        distances: ``[pairs]``, finite; of a similarity pass its negative.
        is_same: ``[pairs]`` booleans: whether the pair is genuine.
        fars: The FARs to report the TAR at. One that these impostors cannot resolve is an error; of the default ones it
            is left out.
        folds: ``[pairs]`` integers: which fold a pair belongs to, at least two.
        subjects: ``[pairs, 2]`` integers: whose the two items are, equal where the pair is genuine. The intervals then
            say what other subjects might have given.
        level: The confidence of the intervals, in (0, 1).
        seed: Draws the resamples.

    Returns:
        A dictionary of

        *   ``auc`` and ``eer``;
        *   ``accuracy``, the share of right decisions at the best threshold. With folds: the mean over folds, and
            ``accuracy_std``, its standard error ``sd / √folds`` (with the sample's sd, as LFW reports it);
        *   ``threshold``, where the accuracy on all pairs is best, the smallest if several are (which accepts the
            fewest); just below the smallest distance, in float32 too, if it is best to accept nothing;
        *   ``tar@far=0.01`` and so on, the TAR at `threshold_at` of that FAR. Its interval has the threshold in it,
            which is uncertain too: with 100 impostors beyond it, its FAR is 0.01 only to within a fifth;
        *   ``genuine`` and ``impostors``, how many pairs of either kind there are.

    Raises:
        TypeError: ``is_same`` is not boolean, distances are not numbers, folds or subjects are not integers.
        ValueError: Lengths that differ, NaN or infinite distances, pairs of one kind only, one fold only, subjects that
            do not fit ``is_same``, a FAR, a level or a seed out of range, a FAR that is not resolvable.

    Example:
        >>> found = verification([0.1, 0.2, 0.4, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], [True] * 3 + [False] * 7)
        >>> round(found["auc"], 3), round(found["eer"], 3), found["accuracy"], found["threshold"]
        (0.952, 0.143, 0.9, 0.2)
        >>> found = verification([0.1, 0.2, 0.4, 0.3, 0.5], [True] * 3 + [False] * 2, fars=(0.5,))
        >>> found["tar@far=0.5"], found["impostors"]
        (1.0, 2)

    References:
        Huang, Ramesh, Berg, Learned-Miller (2007), Labeled Faces in the Wild.
        https://people.cs.umass.edu/~elm/papers/lfw.pdf
        ISO/IEC 19795-1 (2021), Biometric performance testing and reporting. https://www.iso.org/standard/73515.html
    """
    distances, is_same = _checked(distances, is_same)
    if subjects is not None:
        subjects = _checked_subjects(subjects, is_same)
    intervals.check_level(level)
    checks.count(seed, "seed", least=0)
    steps = _steps(distances, is_same)
    pairs, genuine, impostors = len(distances), int(steps.genuine[-1]), int(steps.impostors[-1])
    _check_kinds(genuine, impostors)
    wanted = [far for far in FARS if far >= 1 / impostors] if fars is FARS else _wanted(fars, impostors)
    best = _best(steps)
    curve, threshold = _curve(steps), _threshold(steps, best)
    found = {"auc": float(rates.area(curve)), "eer": float(rates.equal_error_rate(curve))}
    found |= {_name_of(far): float(curve.tar[_last_within(curve, far)]) for far in wanted}
    others: dict[str, float] = {"threshold": threshold, "genuine": genuine, "impostors": impostors}
    if folds is None:
        right = int(steps.genuine[best] + impostors - steps.impostors[best])
        found["accuracy"] = right / pairs
    else:
        decisions, folds = _judged_by_other_folds(distances, is_same, folds)
        by_fold = np.array([decisions[folds == fold].mean() for fold in np.unique(folds)])
        accuracy = float(by_fold.mean())
        low, high = intervals.proportion(int(decisions.sum()), pairs, level=level)
        others |= {
            "accuracy": accuracy,
            "accuracy_low": min(low, accuracy),
            "accuracy_high": max(high, accuracy),
            "accuracy_std": float(by_fold.std(ddof=1) / math.sqrt(len(by_fold))),
        }

    def numbers(curves: Roc) -> np.ndarray:
        each = [rates.area(curves), rates.equal_error_rate(curves)]
        each += [rates.tar_at(curves, far) for far in wanted]
        if folds is None:
            at = np.searchsorted(curves.thresholds, threshold, side="right") - 1
            each.append((genuine * curves.tar[:, at] + impostors * (1 - curves.far[:, at])) / pairs)
        return np.stack(each)

    ends = rates.bootstrap(distances, is_same, subjects, numbers, kept=[threshold], level=level, seed=seed)
    for (key, value), low, high in zip(list(found.items()), *map(np.ndarray.tolist, ends), strict=True):
        found |= {f"{key}_low": min(low, value), f"{key}_high": max(high, value)}
    return {**found, **others}


def roc(distances: Any, is_same: Any) -> Roc:
    """The receiver operating characteristic: FAR and TAR at every threshold that makes a difference.

    Args:
        distances: ``[pairs]``, finite.
        is_same: ``[pairs]`` booleans: whether the pair is genuine.

    Returns:
        A `Roc`, whose ``far`` and ``fnmr`` are also the DET curve.

    Raises:
        TypeError: ``is_same`` is not boolean, distances are not numbers.
        ValueError: Lengths that differ, NaN or infinite distances, pairs of one kind only.

    Example:
        >>> curve = roc([0.1, 0.2, 0.2, 0.4], [True, True, False, False])
        >>> for point in zip(*curve): print(*(float(x) for x in point))
        -inf 0.0 0.0
        0.1 0.0 0.5
        0.2 0.5 1.0
        0.4 1.0 1.0

    References:
        Fawcett (2006), An introduction to ROC analysis. https://doi.org/10.1016/j.patrec.2005.10.010
        Martin, Doddington, Kamm, Ordowski, Przybocki (1997), The DET Curve in Assessment of Detection Task Performance.
        https://doi.org/10.21437/Eurospeech.1997-504
    """
    steps = _steps(*_checked(distances, is_same))
    _check_kinds(int(steps.genuine[-1]), int(steps.impostors[-1]))
    return _curve(steps)


def threshold_at(distances: Any, is_same: Any, far: float) -> tuple[float, float, float]:
    """The largest measured distance whose FAR, as a threshold, does not exceed the wanted one.

    Nothing is interpolated: the FAR that comes with it was measured. If several pairs lie at the same distance it may
    be far below the wanted one; down to accepting nothing, with a threshold just below the smallest distance. It is
    below in float32 too, so distances may be compared with it as they are measured.

    Args:
        distances: ``[pairs]``, finite.
        is_same: ``[pairs]`` booleans: whether the pair is genuine.
        far: The false accept rate that is wanted, in (0, 1].

    Returns:
        (threshold, its measured FAR, its TAR).

    Raises:
        TypeError: ``is_same`` is not boolean, distances are not numbers.
        ValueError: Lengths that differ, NaN or infinite distances, pairs of one kind only; a FAR out of range, or below
            1/#impostors, which cannot be measured.

    Example:
        >>> threshold_at([0.1, 0.2, 0.4, 0.3, 0.5, 0.6], [True] * 3 + [False] * 3, far=0.4)
        (0.4, 0.3333333333333333, 1.0)
    """
    steps = _steps(*_checked(distances, is_same))
    _check_kinds(int(steps.genuine[-1]), int(steps.impostors[-1]))
    _wanted([far], int(steps.impostors[-1]))
    curve = _curve(steps)
    point = _last_within(curve, far)
    return _threshold(steps, point), float(curve.far[point]), float(curve.tar[point])


def _checked(distances: Any, is_same: Any) -> tuple[np.ndarray, np.ndarray]:
    distances, is_same = checks.numbers(distances, "distances"), np.asarray(is_same)
    if distances.ndim != 1 or is_same.shape != distances.shape:
        raise ValueError(
            f"distances and is_same must be [pairs], one of each a pair, got shapes {list(distances.shape)} and "
            f"{list(is_same.shape)}"
        )
    if is_same.dtype != bool:
        raise TypeError(f"is_same must be boolean, got {is_same.dtype}: pass is_same.astype(bool)")
    bad = np.flatnonzero(~np.isfinite(distances))
    if bad.size:
        raise ValueError(f"distances hold {distances[bad[0]]} at pair {bad[0]} ({bad.size} pairs in all)")
    return distances, is_same


def _checked_subjects(subjects: Any, is_same: np.ndarray) -> np.ndarray:
    subjects = np.asarray(subjects)
    if subjects.shape != (len(is_same), 2):
        raise ValueError(
            f"subjects must be [pairs, 2], whose the two items are, for {len(is_same)} pairs, got shape "
            f"{list(subjects.shape)}"
        )
    subjects = checks.integers(subjects.ravel(), "subjects", subjects.size, "items").reshape(-1, 2)
    bad = np.flatnonzero((subjects[:, 0] == subjects[:, 1]) != is_same)
    if bad.size:
        raise ValueError(
            f"subjects must be equal where is_same is true, and only there: at pair {bad[0]} they are "
            f"{subjects[bad[0]].tolist()} and is_same is {is_same[bad[0]]} ({bad.size} pairs in all)"
        )
    return subjects


def _check_kinds(genuine: int, impostors: int) -> None:
    if not genuine or not impostors:
        raise ValueError(
            f"verification needs pairs of both kinds, got {genuine} genuine (same class) and {impostors} impostors"
        )


def _wanted(fars: Any, impostors: int) -> list[float]:
    """The FARs as floats; raises a ValueError for one that is out of range or not resolvable."""
    wanted = checks.numbers(fars, "fars")
    if wanted.ndim != 1:
        raise TypeError(f"fars must be a sequence of numbers, got {fars!r}")
    for far in wanted.tolist():
        if not 0 < far <= 1:
            raise ValueError(f"an FAR must lie above 0 and be at most 1, got {far}")
        if far * (1 + ROUNDING) < 1 / impostors:
            raise ValueError(
                f"an FAR of {far:g} is not resolvable with {impostors} impostors: it takes at least "
                f"{math.ceil(1 / far - 1e-9)} of them, or a larger FAR"
            )
    names = [_name_of(far) for far in wanted.tolist()]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ValueError(f"fars name {twice} more than once, to the digits that are told: leave one out")
    return wanted.tolist()


def _name_of(far: float) -> str:
    return f"tar@far={far:g}"


def _steps(distances: np.ndarray, is_same: np.ndarray) -> _Steps:
    thresholds, which = np.unique(distances, return_inverse=True)

    def accepted(kind: np.ndarray) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(np.bincount(which[kind], minlength=len(thresholds)))])

    return _Steps(np.concatenate([[-np.inf], thresholds]), accepted(is_same), accepted(~is_same))


def _curve(steps: _Steps) -> Roc:
    return Roc(steps.thresholds, steps.impostors / steps.impostors[-1], steps.genuine / steps.genuine[-1])


def _best(steps: _Steps) -> int:
    """The first point at which the most decisions are right."""
    return int(np.argmax(steps.genuine - steps.impostors))


def _threshold(steps: _Steps, point: int) -> float:
    """The threshold of a point as a number that can be stored: -inf has no place in JSON."""
    return float(steps.thresholds[point]) if point else _below(float(steps.thresholds[1]))


def _below(distance: float) -> float:
    """The next smaller number of float32, which distances are compared in; no subnormal, for XLA takes these for 0."""
    with np.errstate(over="ignore"):
        lower = float(np.nextafter(np.float32(distance), np.float32(-np.inf)))
    if math.isinf(lower):
        return float(np.nextafter(distance, -np.inf))
    smallest = float(np.finfo(np.float32).tiny)
    return lower if abs(lower) >= smallest else -smallest


def _last_within(curve: Roc, far: float) -> int:
    """The last point whose FAR does not exceed the wanted one."""
    return int(np.searchsorted(curve.far, far * (1 + ROUNDING), side="right")) - 1


def _judged_by_other_folds(
    distances: np.ndarray, is_same: np.ndarray, folds: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each pair is decided rightly by the threshold that is best on the other folds, and its fold."""
    folds = checks.integers(folds, "folds", len(distances), "pairs")
    names = np.unique(folds)
    if len(names) < 2:
        raise ValueError(f"folds must be at least two, got only fold {names[0]}: leave folds out")
    right = np.empty(len(distances), bool)
    for fold in names:
        held_out = folds == fold
        others = _steps(distances[~held_out], is_same[~held_out])
        if not others.genuine[-1] or not others.impostors[-1]:
            raise ValueError(
                f"folds other than {fold} have pairs of one kind alone, and no threshold can be chosen on them: spread "
                "both kinds over the folds"
            )
        right[held_out] = (distances[held_out] <= others.thresholds[_best(others)]) == is_same[held_out]
    return right, folds

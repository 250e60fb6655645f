"""POPE scores (Li et al. 2023): yes/no questions about objects that are or are not in an image."""

from __future__ import annotations

from collections.abc import Iterable


def parse_pope(prediction: str) -> str:
    """ "no" when the first sentence has the word no or not, else "yes", as its authors do.

    `yes_no_text` tells where that differs from what an answer means.
    """
    words = prediction.split(".")[0].replace(",", "").split()
    return "no" if {"No", "no", "not"}.intersection(words) else "yes"


def confusion(pairs: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Counts of (truth, prediction) pairs of "yes" and "no"; yes is the positive class."""
    counts = {"TP": 0, "FP": 0, "TN": 0, "FN": 0}
    for truth, said in pairs:
        counts[("T" if truth == said else "F") + ("P" if said == "yes" else "N")] += 1
    return counts


def pope_scores(pairs: Iterable[tuple[str, str]]) -> dict[str, float]:
    """Accuracy, precision, recall, F1 and share of yes answers, in percent."""
    counts = confusion(pairs)
    yes, total = counts["TP"] + counts["FP"], sum(counts.values())
    precision = _ratio(counts["TP"], yes)
    recall = _ratio(counts["TP"], counts["TP"] + counts["FN"])
    return {
        "accuracy": 100 * _ratio(counts["TP"] + counts["TN"], total),
        "precision": 100 * precision,
        "recall": 100 * recall,
        "f1": 100 * f1(counts["TP"], counts["FP"], counts["FN"]),
        "yes_share": 100 * _ratio(yes, total),
    }


def f1(true_positives: float, false_positives: float, false_negatives: float) -> float:
    """Harmonic mean of precision and recall, in [0, 1]; 0 when nothing is positive."""
    return _ratio(2 * true_positives, 2 * true_positives + false_positives + false_negatives)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0

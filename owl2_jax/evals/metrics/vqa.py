"""VQA accuracy: leave-one-out agreement with the human answers (Antol et al. 2015).

For each human answer, the prediction scores min(1, matches among the OTHER
answers / 3); the accuracy is the mean over the human answers.

Ground truths are treated as the released evaluation treats them: they lose
punctuation only when they are not all equal, and keep their letter case always.
So ten times "Yes" can never be matched, because predictions are in lower case.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from owl2_jax.evals.metrics.answers import normalise_prediction, strip_punctuation

_AGREEING_HUMANS = 3


def vqa_accuracy(prediction: str, answers: Sequence[str | Mapping]) -> float:
    """Accuracy in [0, 1] of a raw prediction.

    Args:
      prediction: The model's answer, not normalised.
      answers: The human answers. Strings are distinct people. Mappings are rows
        of an annotation file with the key "answer"; two rows that are equal in
        every key are the same person, as in the released code, so files without
        "answer_id" should be given as strings.
    """
    return accuracy_of_normalised(normalise_prediction(prediction), answers)


def accuracy_of_normalised(prediction: str, answers: Sequence[str | Mapping]) -> float:
    """The same for a prediction that is normalised already."""
    texts = normalise_answers([_text(answer) for answer in answers])
    matches = [place for place, text in enumerate(texts) if text == prediction]
    if not matches:
        return 0.0
    same = _same_person_counts(matches, answers)
    total = sum(min(1.0, (len(matches) - count) / _AGREEING_HUMANS) for count in same)
    total += (len(texts) - len(matches)) * min(1.0, len(matches) / _AGREEING_HUMANS)
    return total / len(texts)


def normalise_answers(texts: Sequence[str]) -> list[str]:
    """Ground truths as they are compared: without punctuation, unless all are equal."""
    if all(text == texts[0] for text in texts):
        return list(texts)
    return [strip_punctuation(text) for text in texts]


def _text(answer: str | Mapping) -> str:
    return answer if isinstance(answer, str) else answer["answer"]


def _same_person_counts(matches: list[int], answers: Sequence[str | Mapping]) -> list[int]:
    """For each matching answer, how many matching ones drop out with it (itself included)."""
    if any(isinstance(answers[place], str) or "answer_id" in answers[place] for place in matches):
        return [1] * len(matches)
    # Equal texts after normalisation: what is left to tell rows apart is the other keys.
    keys = [{key: value for key, value in answers[place].items() if key != "answer"} for place in matches]
    return [keys.count(key) for key in keys]


def summarise(rows: Iterable[tuple[float, str, str]]) -> dict:
    """Means over (accuracy, question type, answer type) rows, in percent, 2 decimals as printed.

    Raises ZeroDivisionError for no rows.
    """
    rows = list(rows)
    return {
        "overall": _percent([accuracy for accuracy, _, _ in rows]),
        "perQuestionType": _percent_by((kind, accuracy) for accuracy, kind, _ in rows),
        "perAnswerType": _percent_by((kind, accuracy) for accuracy, _, kind in rows),
    }


def _percent(accuracies: Sequence[float]) -> float:
    return round(100 * float(sum(accuracies)) / len(accuracies), 2)


def _percent_by(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    groups: dict[str, list[float]] = {}
    for kind, accuracy in pairs:
        groups.setdefault(kind, []).append(accuracy)
    return {kind: _percent(accuracies) for kind, accuracies in groups.items()}

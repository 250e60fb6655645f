"""Text-only sets: MMLU, ARC, AGIEval (English), BIG-Bench Hard.

MMLU, ARC and AGIEval's choices are scored by the log-likelihood of the option
letters as continuations of the prompt, or (`generate`) by the letter read out of
a generated answer; BBH and AGIEval's cloze are always generated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.prompts import PROMPTS
from owl2_jax.evals.base import Answered, Benchmark, Decoding, Question, Summary, percent, percent_by
from owl2_jax.evals.files import DataFile, parse_rows, read_json_lines, read_plain_csv, read_rows, read_text
from owl2_jax.evals.metrics.answers import exact_match
from owl2_jax.evals.metrics.choice import LETTERS, option_lines, parse_choice


class Grouped(Benchmark):
    """Questions in groups (subjects, tasks), with accuracy over all and over each."""

    def summarise(self, answered: Sequence[Answered]) -> Summary:
        scores = [answer.score for answer in answered]
        groups = percent_by([answer.question.info["group"] for answer in answered], scores)
        mean = sum(groups.values()) / len(groups)
        return Summary({self.metric: percent(scores), "mean_of_groups": mean, **groups}, scores)


class LetteredText(Benchmark):
    """Questions with lettered options; `answer` is a letter."""

    def __init__(self, generate: bool = False):
        """With `generate` the model writes its answer, and the letter is read out of it."""
        self._generate = generate
        if generate:
            self.title += ", generated"
            self.published = None  # by likelihood
            if not self.decoding.stop:
                self.decoding = Decoding(stop=("\n",))

    def choice(
        self, name: str, text: str, choices: Sequence[str], answer: str, group: str = "", shorter: Any = ()
    ) -> Question:
        """A question whose prompt `text` shows the options already; `group` goes into its info."""
        info = {"group": group, "choices": list(choices)}
        options = () if self._generate else tuple(f" {letter}" for letter in LETTERS[: len(choices)])
        return Question(
            name, text, self.prompt.hash, answer, options=options, info=info, shorter=tuple(shorter)
        )

    def score(self, question: Question, prediction: str) -> float:
        """A likeliest letter is the prediction itself; a generated one has to be read."""
        chosen = parse_choice(prediction, question.info["choices"])
        return float(chosen is not None and LETTERS[chosen] == question.answer)


class MMLU(LetteredText, Grouped):
    """MMLU test: 14 042 questions of 57 subjects, five worked examples of the subject in front."""

    title = "MMLU, 5-shot"
    prompt = PROMPTS["mmlu"]
    published = 53.4
    baselines = (("chance", 25.0),)
    shots = 5
    files = (
        DataFile("mmlu/data/test", "github.com/hendrycks/test (data.tar)"),
        DataFile("mmlu/data/dev", "github.com/hendrycks/test (data.tar)"),
    )

    def questions(self, root: Path) -> Iterator[Question]:
        tests, examples = self.data_file(root, 0), self.data_file(root, 1)
        paths = sorted(tests.glob("*_test.csv"))
        if not paths:
            raise Owl2Error(f"{tests} holds no *_test.csv; expected the 57 files of MMLU's data.tar")
        for path in paths:
            subject = path.name.removesuffix("_test.csv")
            dev = DataFile(f"{self.files[1].path}/{subject}_dev.csv", self.files[1].source).require(root)
            shots = [_solved(row) for row in read_plain_csv(examples / dev.name, 6)[: self.shots]]
            rows = enumerate(read_plain_csv(path, 6))
            yield from parse_rows(path, rows, partial(self._parse, subject, shots))

    def _parse(self, subject: str, shots: list[str], row: tuple[int, list[str]]) -> Question:
        index, (question, *options, answer) = row
        if answer not in LETTERS[:4]:
            raise ValueError(f"the answer must be A, B, C or D, found {answer!r}")
        prompts = [
            self.prompt.text(
                subject=subject.replace("_", " "),
                shots="".join(shots[:count]),
                question=question,
                options=option_lines(options),
            )
            for count in range(len(shots), -1, -1)
        ]
        return self.choice(f"{subject}/{index}", prompts[0], options, answer, subject, prompts[1:])


def _solved(row: list[str]) -> str:
    question, *options, answer = row
    return f"{question}\n{option_lines(options)}\nAnswer: {answer}\n\n"


class ARC(LetteredText):
    """AI2 reasoning challenge, test; `level` is "Challenge" (1 172) or "Easy" (2 376)."""

    prompt = PROMPTS["arc"]
    baselines = (("chance", 25.0),)

    def __init__(self, level: str, published: float, generate: bool = False):
        self.title = f"ARC-{level}"
        self.published = published
        super().__init__(generate)
        self.files = (
            DataFile(
                f"arc/ARC-V1-Feb2018-2/ARC-{level}/ARC-{level}-Test.jsonl",
                "allenai.org/data/arc (ARC-V1-Feb2018.zip)",
            ),
        )

    def questions(self, root: Path) -> Iterator[Question]:
        path = self.data_file(root)
        yield from parse_rows(path, read_json_lines(path), self._parse)

    def _parse(self, row: dict[str, Any]) -> Question:
        choices = row["question"]["choices"]
        # Labels are A to E in most rows and 1 to 5 in some; the prompt shows letters always.
        right = [choice["label"] for choice in choices].index(row["answerKey"])
        options = [choice["text"] for choice in choices]
        text = self.prompt.text(question=row["question"]["stem"], options=option_lines(options))
        return self.choice(row["id"], text, options, LETTERS[right])


class AGIEval(LetteredText, Grouped):
    """AGIEval, zero-shot, the ten sets that its authors' loader lists as English.

    Nine are of choices and one (math) of cloze. The score is over all questions;
    the mean over sets stands beside it. The paper names no sets for its figure.
    """

    title = "AGIEval English, 0-shot"
    prompt = PROMPTS["agieval_choice"]
    published = 32.7
    published_note = "sets not named"
    decoding = Decoding(max_new_tokens=32, stop=("\n",))
    sets = (
        "aqua-rat",
        "gaokao-english",
        "logiqa-en",
        "lsat-ar",
        "lsat-lr",
        "lsat-rc",
        "math",
        "sat-en",
        "sat-en-without-passage",
        "sat-math",
    )
    files = tuple(
        DataFile(f"agieval/data/v1/{name}.jsonl", "github.com/ruixiangcui/AGIEval (data/v1)") for name in sets
    )

    def questions(self, root: Path) -> Iterator[Question]:
        for name, path in zip(self.sets, [file.require(root) for file in self.files], strict=True):
            yield from parse_rows(path, enumerate(read_json_lines(path)), partial(self._parse, name))

    def _parse(self, name: str, numbered: tuple[int, dict[str, Any]]) -> Question:
        index, row = numbered
        fields = {"passage": row["passage"] or "", "question": row["question"]}
        if not row["options"]:
            prompt = PROMPTS["agieval_cloze"]
            text = prompt.text(**fields)
            return Question(f"{name}/{index}", text, prompt.hash, row["answer"], info={"group": name})
        options = row["options"]
        if row["label"] not in LETTERS[: len(options)]:
            raise ValueError(f"the label {row['label']!r} is none of the {len(options)} options")
        last = LETTERS[len(options) - 1]
        text = self.prompt.text(**fields, options=" ".join(options), last=last)
        choices = [_BRACKETED.sub("", option) for option in options]
        return self.choice(f"{name}/{index}", text, choices, row["label"], name)

    def score(self, question: Question, prediction: str) -> float:
        if "choices" in question.info:
            return super().score(question, prediction)
        return exact_match(_formula(prediction), _formula(question.answer))


_BRACKETED = re.compile(r"^\([A-J]\)\s*")  # options are published as "(A)text"


def _formula(text: str) -> str:
    """A formula without dollar signs, spacing and the final stop."""
    return re.sub(r"\s+|\$|\\!", "", text).rstrip(".")


class BBH(Grouped):
    """BIG-Bench Hard: 27 tasks with their authors' three worked chains of thought."""

    title = "BBH, 3-shot chain of thought"
    prompt = PROMPTS["bbh"]
    published = 45.0
    decoding = Decoding(max_new_tokens=512, stop=("\n\nQ:",))
    files = (
        DataFile("bbh/bbh", "github.com/suzgunmirac/BIG-Bench-Hard"),
        DataFile("bbh/cot-prompts", "github.com/suzgunmirac/BIG-Bench-Hard"),
    )

    def questions(self, root: Path) -> Iterator[Question]:
        folder, examples = self.data_file(root, 0), self.data_file(root, 1)
        paths = sorted(folder.glob("*.json"))
        if not paths:
            raise Owl2Error(f"{folder} holds no task files; expected the 27 .json files of BBH")
        for path in paths:
            shots = _worked_examples(examples / f"{path.stem}.txt")
            rows = enumerate(read_rows(path, "examples"))
            yield from parse_rows(path, rows, partial(self._parse, path.stem, shots))

    def _parse(self, task: str, shots: list[str], numbered: tuple[int, dict[str, str]]) -> Question:
        index, row = numbered
        counts = range(len(shots), 0, -1)
        prompts = [self.prompt.text(shots="\n\n".join(shots[:n]), question=row["input"]) for n in counts]
        return Question(
            f"{task}/{index}",
            prompts[0],
            self.prompt.hash,
            row["target"],
            info={"group": task},
            shorter=tuple(prompts[1:]),
        )

    def score(self, question: Question, prediction: str) -> float:
        return float(_final_answer(prediction) == question.answer.strip().lower())


def _worked_examples(path: Path) -> list[str]:
    """The task's instruction with the first example, then each further example.

    The file begins with a canary and a rule of dashes, which no prompt includes.
    """
    if not path.exists():
        raise Owl2Error(f"{path} is missing; it belongs to github.com/suzgunmirac/BIG-Bench-Hard")
    text = read_text(path).split("-----\n", 1)[-1].strip()
    head, *examples = text.split("\n\nQ:")
    if not examples:
        raise Owl2Error(f"{path} holds no worked example that begins with 'Q:'")
    examples = ["Q:" + example for example in examples]
    return [f"{head}\n\n{examples[0]}", *examples[1:]]


def _final_answer(prediction: str) -> str:
    """What follows the last "the answer is", without a final stop; else the whole text."""
    tail = re.split(r"the answer is", prediction, flags=re.IGNORECASE)[-1]
    return tail.strip().split("\n")[0].removesuffix(".").strip().lower()

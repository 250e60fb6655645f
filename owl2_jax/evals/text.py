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
from owl2_jax.core.overriding import override
from owl2_jax.core.text_files import read_text
from owl2_jax.data.prompts import PROMPTS
from owl2_jax.evals.base import Answered, Benchmark, Decoding, Question, Summary, percent, percent_by
from owl2_jax.evals.broken import Broken
from owl2_jax.evals.files import DataFile, read_json_lines, read_rows
from owl2_jax.evals.metrics.answers import exact_match
from owl2_jax.evals.metrics.choice import LETTERS, letter_index, option_lines, parse_choice
from owl2_jax.evals.rows import identifier, parse_rows, text, texts
from owl2_jax.evals.tables import read_plain_csv


class Grouped(Benchmark):
    """Questions in groups (subjects, tasks), with accuracy over all and over each."""

    @override
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
        self,
        name: str,
        text: str,
        choices: Sequence[str],
        answer: str,
        group: str = "",
        shorter: Sequence[str] = (),
    ) -> Question:
        """A question whose prompt `text` shows the options already; `group` goes into its info."""
        info = {"group": group, "choices": list(choices)}
        options = () if self._generate else tuple(f" {letter}" for letter in LETTERS[: len(choices)])
        return Question(
            name, text, self.prompt.hash, answer, options=options, info=info, shorter=tuple(shorter)
        )

    @override
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

    @override
    def questions(self, root: Path) -> Iterator[Question | Broken]:
        tests, _ = self.data_file(root, 0), self.data_file(root, 1)
        paths = sorted(tests.glob("*_test.csv"))
        if not paths:
            raise Owl2Error(f"{tests} holds no *_test.csv; expected the 57 files of MMLU's data.tar")
        for path in paths:
            subject = path.name.removesuffix("_test.csv")
            dev = DataFile(f"{self.files[1].path}/{subject}_dev.csv", self.files[1].source).require(root)
            shots = list(parse_rows(dev, read_plain_csv(dev, 6)[: self.shots], _solved))
            parse = partial(self._parse, subject, shots)
            yield from parse_rows(path, read_plain_csv(path, 6), parse, numbered=True)

    def _parse(self, subject: str, shots: list[str | Broken], row: tuple[int, list[str]]) -> Question:
        for shot in shots:
            if isinstance(shot, Broken):  # the published prompt cannot be made
                raise ValueError(f"its worked example is broken: {shot}")
        index, (question, *options, answer) = row
        answer = LETTERS[letter_index(answer, LETTERS[:4])]
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
    letter_index(answer, LETTERS[:4])
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

    @override
    def questions(self, root: Path) -> Iterator[Question | Broken]:
        path = self.data_file(root)
        yield from parse_rows(path, read_json_lines(path), self._parse)

    def _parse(self, row: dict[str, Any]) -> Question:
        choices = row["question"]["choices"]
        # Labels are A to E in most rows and 1 to 5 in some; the prompt shows letters always.
        labels = [choice["label"] for choice in choices]
        if row["answerKey"] not in labels:
            raise ValueError(f"the answerKey {row['answerKey']!r} is none of the labels {labels}")
        options = _options([choice["text"] for choice in choices])
        question = text(row["question"]["stem"], "the question")
        prompt = self.prompt.text(question=question, options=option_lines(options))
        right = LETTERS[labels.index(row["answerKey"])]
        return self.choice(identifier(row["id"], "id"), prompt, options, right)


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

    @override
    def questions(self, root: Path) -> Iterator[Question | Broken]:
        for name, path in zip(self.sets, [file.require(root) for file in self.files], strict=True):
            yield from parse_rows(path, read_json_lines(path), partial(self._parse, name), numbered=True)

    def _parse(self, name: str, numbered: tuple[int, dict[str, Any]]) -> Question:
        index, row = numbered
        fields = {"passage": text(row["passage"] or "", "the passage")}
        fields["question"] = text(row["question"], "the question")
        if not row["options"]:
            prompt, answer = PROMPTS["agieval_cloze"], text(row["answer"], "the answer")
            prompted = prompt.text(**fields)
            return Question(f"{name}/{index}", prompted, prompt.hash, answer, info={"group": name})
        options = _options(row["options"])
        letters = LETTERS[: len(options)]
        label = letters[letter_index(row["label"], letters)]
        prompted = self.prompt.text(**fields, options=" ".join(options), last=letters[-1])
        choices = [_BRACKETED.sub("", option) for option in options]
        return self.choice(f"{name}/{index}", prompted, choices, label, name)

    @override
    def score(self, question: Question, prediction: str) -> float:
        if "choices" in question.info:
            return super().score(question, prediction)
        return exact_match(_formula(prediction), _formula(question.answer))


_BRACKETED = re.compile(r"^\([A-Z]\)\s*")  # options are published as "(A)text"


def _options(value: object) -> list[str]:
    options = texts(value, "the list of options", least=2)
    if len(options) > len(LETTERS):
        raise ValueError(f"it has {len(options)} options; expected at most {len(LETTERS)}")
    return options


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

    @override
    def questions(self, root: Path) -> Iterator[Question | Broken]:
        folder, examples = self.data_file(root, 0), self.data_file(root, 1)
        paths = sorted(folder.glob("*.json"))
        if not paths:
            raise Owl2Error(f"{folder} holds no task files; expected the 27 .json files of BBH")
        for path in paths:
            shots = _worked_examples(examples / f"{path.stem}.txt")
            parse = partial(self._parse, path.stem, shots)
            yield from parse_rows(path, read_rows(path, "examples"), parse, numbered=True)

    def _parse(self, task: str, shots: list[str], numbered: tuple[int, dict[str, str]]) -> Question:
        index, row = numbered
        counts, question = range(len(shots), 0, -1), text(row["input"], "the input")
        prompts = [self.prompt.text(shots="\n\n".join(shots[:n]), question=question) for n in counts]
        return Question(
            f"{task}/{index}",
            prompts[0],
            self.prompt.hash,
            text(row["target"], "the target"),
            info={"group": task},
            shorter=tuple(prompts[1:]),
        )

    @override
    def score(self, question: Question, prediction: str) -> float:
        return float(_final_answer(prediction) == question.answer.strip().lower())


def _worked_examples(path: Path) -> list[str]:
    """The task's instruction with the first example, then each further example.

    The file begins with a canary and a rule of dashes, which no prompt includes.
    """
    worked = read_text(path).replace("\r\n", "\n").split("-----\n", 1)[-1].strip()
    head, *examples = worked.split("\n\nQ:")
    if not examples:
        raise Owl2Error(f"{path} holds no worked example that begins with 'Q:'")
    examples = ["Q:" + example for example in examples]
    return [f"{head}\n\n{examples[0]}", *examples[1:]]


def _final_answer(prediction: str) -> str:
    """What follows the last "the answer is", without a final stop; else the whole text."""
    tail = re.split(r"the answer is", prediction, flags=re.IGNORECASE)[-1]
    return tail.strip().split("\n")[0].removesuffix(".").strip().lower()

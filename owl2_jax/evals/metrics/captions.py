"""Caption scores through `pycocoevalcap`, the COCO caption evaluation (Chen et al. 2015).

Captions go through the Stanford PTB tokenizer (Java), lose punctuation, and are
scored by CIDEr, BLEU-1..4, ROUGE-L (all plain Python) and METEOR (Java). SPICE
(Java) works only where its Stanford models lie inside the installed package,
which by itself would fetch them over the network; it is never asked to.

`CIDEr` here is the package's value: 1.0 reads "100" in most papers, so tables
show percent.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import which

from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.core.file_writing import write_text

BLEU = ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4")
METRICS = ("CIDEr", *BLEU, "ROUGE_L", "METEOR", "SPICE")
DEFAULT_METRICS = METRICS[:-1]

Tokens = dict[str, list[str]]


def require_captions(metrics: Sequence[str] = DEFAULT_METRICS) -> None:
    """Checks that everything `metrics` need is installed, so that no run fails at its end.

    Raises:
      Owl2Error: The extra, Java or the models of SPICE are missing.
    """
    for metric in metrics:
        if metric not in METRICS:
            raise unknown_name("caption metric", metric, METRICS)
    _package_directory()
    if which("java") is None:
        raise Owl2Error(
            "caption scores need Java: the PTB tokenizer and METEOR are Java programs, and no `java` is on "
            "the PATH. Install a Java runtime, 8 or newer (Debian: default-jre-headless)"
        )
    if "SPICE" in metrics and (missing := spice_is_missing()):
        raise Owl2Error(missing)


def spice_is_missing() -> str | None:
    """What SPICE lacks here and how to get it; None when it can be computed."""
    if _spice_models():
        return None
    return (
        "SPICE needs Stanford CoreNLP 3.6.0, which is not inside pycocoevalcap and is never downloaded by "
        "us: put stanford-corenlp-3.6.0.jar and stanford-corenlp-3.6.0-models.jar into "
        f"{_package_directory() / 'spice' / 'lib'}"
    )


def caption_scores(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    metrics: Sequence[str] = DEFAULT_METRICS,
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Scores one caption an image against its references.

    Args:
      candidates: Image id to the generated caption.
      references: Image id to its human captions; the same ids.
      metrics: Names out of `METRICS`.

    Returns:
      (corpus scores by metric, scores of each image by metric).
    """
    require_captions(metrics)
    if candidates.keys() != references.keys():
        odd = sorted(candidates.keys() ^ references.keys())
        raise Owl2Error(
            f"captions and references differ in {len(odd)} image ids, first {odd[0]!r}; "
            "every image needs one caption and at least one reference"
        )
    return token_scores(
        ptb_tokenize({name: [caption] for name, caption in candidates.items()}),
        ptb_tokenize(references),
        metrics,
    )


def token_scores(
    candidates: Tokens, references: Tokens, metrics: Sequence[str]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Like `caption_scores`, for tokenized captions; CIDEr, BLEU and ROUGE-L run without Java."""
    corpus: dict[str, float] = {}
    images: dict[str, dict[str, float]] = {name: {} for name in candidates}
    references = {name: references[name] for name in candidates}
    for names, score in _scorers(metrics):
        total, each = score(references, candidates)
        totals, columns = ([total], [each]) if len(names) == 1 else (total, each)
        for metric, value, column in zip(names, totals, columns, strict=True):
            corpus[metric] = float(value)
            for name, image_score in zip(candidates, column, strict=True):
                images[name][metric] = float(image_score)
    return {m: corpus[m] for m in metrics}, {
        name: {m: scores[m] for m in metrics} for name, scores in images.items()
    }


def ptb_tokenize(captions: Mapping[str, Sequence[str]]) -> Tokens:
    """Tokens of every caption, lower case, joined by spaces, punctuation left out.

    Runs the tokenizer of `pycocoevalcap` once for all captions. Every kind of
    line break inside a caption becomes a space, since one would shift all
    captions after it.
    """
    names = [name for name, texts in captions.items() for _ in texts]
    lines = [" ".join(text.splitlines()) for texts in captions.values() for text in texts]
    tokens: Tokens = {name: [] for name in captions}
    for name, line in zip(names, _run_tokenizer(lines), strict=True):
        words = (word for word in line.rstrip().split(" ") if word not in _punctuation())
        tokens[name].append(" ".join(words))
    return tokens


def _run_tokenizer(lines: list[str]) -> list[str]:
    if not lines:
        return []
    jar = _package_directory() / "tokenizer" / "stanford-corenlp-3.4.1.jar"
    command = ["java", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
    # The file lies in a folder of its own: the package writes it beside its jar, which may be read-only.
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "captions.txt")
        write_text(text, "\n".join(lines))
        options = ["-preserveLines", "-lowerCase", "-encoding", "utf-8", str(text)]
        done = subprocess.run(command + options, capture_output=True, check=False)
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise Owl2Error(f"the PTB tokenizer (java) failed: {message[-1]}")
    out = done.stdout.decode("utf-8").split("\n")
    # Trailing empty captions give no line at all.
    out = out[: len(lines)] + [""] * (len(lines) - len(out))
    return out


def _punctuation() -> frozenset[str]:
    return frozenset(_module("tokenizer.ptbtokenizer").PUNCTUATIONS)


def _scorers(metrics: Sequence[str]):
    """Pairs of (metric names, compute_score), each made only when it is asked for."""
    if any(metric in BLEU for metric in metrics):
        bleu = _module("bleu.bleu").Bleu(4)
        yield BLEU, lambda references, captions: bleu.compute_score(references, captions, verbose=0)
    if "CIDEr" in metrics:
        yield ("CIDEr",), _module("cider.cider").Cider().compute_score
    if "ROUGE_L" in metrics:
        yield ("ROUGE_L",), _module("rouge.rouge").Rouge().compute_score
    if "METEOR" in metrics:
        yield ("METEOR",), _module("meteor.meteor").Meteor().compute_score
    if "SPICE" in metrics:
        yield ("SPICE",), _spice


def _spice(references: Tokens, captions: Tokens) -> tuple[float, list[float]]:
    total, each = _module("spice.spice").Spice().compute_score(references, captions)
    # The package returns the images in sorted order.
    by_name = {name: scores["All"]["f"] for name, scores in zip(sorted(captions), each, strict=True)}
    return total, [by_name[name] for name in captions]


def _spice_models() -> bool:
    jars = {jar.name for jar in (_package_directory() / "spice" / "lib").glob("stanford-corenlp-3.6.0*.jar")}
    return len(jars) >= 2


def _module(name: str):
    return importlib.import_module(f"pycocoevalcap.{name}")


def _package_directory() -> Path:
    """Folder of the installed package, which is a namespace package without a file of its own."""
    spec = importlib.util.find_spec("pycocoevalcap")
    if spec is None:
        raise Owl2Error(
            "caption scores need pycocoevalcap; install the extra: pip install 'owl2_jax[captions]'"
        )
    return Path(next(iter(spec.submodule_search_locations)))

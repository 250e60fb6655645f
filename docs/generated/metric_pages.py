"""What a run writes down, what a server tells Prometheus, and why records are rejected."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families
from tables import code, prose, table

from owl2_jax.data.reasons import REASONS
from owl2_jax.serving.metrics import Metrics

# Of a line of `metrics.jsonl`; a test compares the names with those that a run writes.
RUN_METRICS = {
    "step": "the last step of the line's window, which is `train.log_every_steps` long",
    "loss": "cross-entropy in nats, mean over a step's supervised tokens and the finite steps of the window",
    "accuracy": "share of supervised tokens that would be chosen greedily",
    "loss/SET, accuracy/SET": "the same of one set of the mixture",
    "loss/with_images, loss/without_images": "the same of samples with and without images; `accuracy/` alike",
    "grad_norm": "global norm of the gradient before clipping",
    "learning_rate": "of the run's own schedule; groups multiply it",
    "skipped_steps": "steps since the start whose loss or gradient was not finite; they changed nothing",
    "seconds_per_step": "time of a step, without compilation, saving and evaluation",
    "tokens_per_second": "positions that hold something, those of images included, over all devices",
    "samples_per_second": "samples over all devices; a row holds several",
    "images_per_second": "images over all devices",
    "mfu": "model FLOPs of the steps over what the chips could do at their peak in that "
    "time; only for known chips. Work that is computed again (`model.remat`) does not count; padding "
    "does, so read it with `packing_efficiency`",
    "packing_efficiency": "share of a batch's positions that hold something",
    "data_wait": "share of the steps' time in which the devices waited for data",
    "save": "share of the steps' time that saving took",
    "goodput": "share of all time since the run began that trained; restarts and lost steps did not",
    "elapsed_seconds": "all that time",
    "heldout/loss, heldout/accuracy": "on `heldout.datasets`, where the config has them; `/SET` of one",
    "BENCHMARK/METRIC": "of `evaluators`, where the config has them",
}

MFU = """\
`mfu` is the work that the model needs, over what the chips could do at their peak in the same time:

- **Work** is that of the products of a forward pass, times three where parameters train: forward, the
  gradient of the inputs and that of the parameters. A frozen part has no gradient of its parameters, and
  one that nothing trained lies below has no backward pass at all.
- **Attention** counts half of its square, since a position does not look ahead.
- **Not counted** is what is computed again (`model.remat`), and anything that is no product.
- **Padding counts**, as it is computed: read `mfu` together with `packing_efficiency`.
- **The peak** is that of dense bfloat16 products in the chip's data sheet (`owl2_jax/parallel/chips.py`).

`owl2 inspect --config=FILE` prints the work of a step by part; MaxText's older tables count attention
whole."""


def metrics_page() -> str:
    """Metrics of a run and of /metrics."""
    run = [
        (", ".join(code(one) for one in name.split(", ")), prose(text)) for name, text in RUN_METRICS.items()
    ]
    words = (
        "A run writes one line of JSON per window to `metrics.jsonl` of its directory; a value that is not "
        "finite is `null`. The same values go to TensorBoard and, if asked for, to Weights & Biases."
    )
    server = "`owl2 serve` answers `GET /metrics` in the text format of Prometheus."
    return "\n\n".join(
        [
            "# Metrics", "## Of a run", prose(words), table(("name", "meaning"), run),
            "## How MFU is counted", MFU,
            "## Of a server", prose(server), table(("name", "kind", "labels", "meaning"), server_rows()),
        ]
    )  # fmt: skip


def server_rows() -> list[tuple[str, str, str, str]]:
    """(name, kind, labels, meaning) of everything on /metrics."""
    metrics = Metrics()
    metrics.watch(_Idle())
    labels = {"owl2_requests": "path, status", "owl2_answers": "finish_reason"}
    return [
        (code(_full(family)), family.type, labels.get(family.name, ""), prose(family.documentation))
        for family in text_string_to_metric_families(metrics.text().decode())
        if not family.name.endswith("_created")
    ]


def reasons_page() -> str:
    """The reasons of `rejected.jsonl`."""
    words = (
        "A record that cannot be used is counted under one of these names and written to `rejected.jsonl` of "
        "the run; [Debug a bad run](../howto/bad_run.md#rejected-records) says what to do."
    )
    rows = [(code(name), prose(text)) for name, text in REASONS.items()]
    return "\n\n".join(["# Reasons for rejected records", words, table(("reason", "meaning"), rows)])


def _full(family) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


class _Idle:
    """A runner without work."""

    running = waiting = sequences = programs = pages = free_pages = 0
    ready = True

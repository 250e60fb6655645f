"""The HTML page of a survey: one file, images included, that opens in any browser."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from PIL import Image

from owl2_jax.core.errors import counted
from owl2_jax.data_tools.check.charts import histogram
from owl2_jax.data_tools.check.survey import SetSurvey, Shown, Survey
from owl2_jax.data_tools.check.tokens import text_html

# Images smaller than this are enlarged, pixel by pixel, so that one sees them.
_LEAST_SHOWN = 224

_STYLE = """
:root { --ink: #1d2733; --soft: #667385; --line: #dde3ea; --on: #c9efd2; --on-edge: #58b070; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); margin: 0 auto; padding: 24px; }
body { max-width: 1180px; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 36px 0 10px; }
p.lead, .none { color: var(--soft); margin: 0 0 12px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 500; white-space: nowrap; } td.l, th.l { text-align: left; }
td.l { overflow-wrap: anywhere; }
tr.bad td { background: #fdeeee; }
.charts { display: flex; flex-wrap: wrap; gap: 14px; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 6px; padding: 8px 10px; }
figcaption { font-size: 13px; color: var(--soft); }
svg rect { fill: #6f8fc9; } svg text { font-size: 10px; fill: var(--soft); }
svg line.limit { stroke: #d2483f; stroke-dasharray: 3 2; }
article { border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; margin: 0 0 14px; }
article header { font-size: 13px; color: var(--soft); margin-bottom: 8px; overflow-wrap: anywhere; }
article header b { color: var(--ink); }
.body { display: flex; gap: 16px; align-items: flex-start; }
.images { display: flex; flex-wrap: wrap; gap: 8px; max-width: 480px; flex: none; }
.images figure { padding: 4px; } .images img { display: block; image-rendering: pixelated; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.9; font-size: 15px; min-width: 0; }
.t { border-radius: 3px; padding: 2px 0; box-shadow: inset 0 -1px 0 var(--line); }
.t:hover { outline: 2px solid #3b6fd4; }
.t.on { background: var(--on); box-shadow: inset 0 -1px 0 var(--on-edge); }
.t.special { font: 12px ui-monospace, monospace; color: #94591c; padding: 2px 2px; }
.t.pic { background: #dbe7ff; padding: 2px 6px; margin: 0 2px; white-space: nowrap; font-size: 13px; }
@media (max-width: 720px) { .body { flex-direction: column; } }
"""


def render(survey: Survey, title: str) -> str:
    """The page. Everything that comes from data or config is escaped."""
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(summary(survey))}</p>',
        *(f'<p class="lead">{escape(remark)}</p>' for remark in survey.remarks()),
        "<h2>Sets</h2>",
        _sets_table(survey.sets),
        "<h2>Lengths, images, packing</h2>",
        _charts(survey),
    ]
    if survey.rejected:
        parts += ["<h2>Unusable or cut records</h2>", _rejects_table(survey)]
    parts += [
        "<h2>Samples as the model gets them</h2>",
        '<p class="lead"><span class="t on">learnt</span> <span class="t">not learnt</span> '
        '<span class="t pic">▣ image</span> · ids and positions on hover</p>',
        *(_article(one, survey) for one in survey.shown),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def summary(survey: Survey) -> str:
    """One sentence: what was read, how full the rows are, how long a round is."""
    config, count = survey.config, len(survey.efficiency)
    part = "batches" if config.shards == 1 else f"parts ({config.shards} make a batch)"
    again = "" if survey.met == survey.read else f" ({survey.met:,} with the repeats of small sets)"
    text = (
        f"{counted(survey.read, 'record')} read{again}, {survey.num_rejected:,} unusable. "
        f"{count:,} {part} of {config.rows // config.shards} rows of {config.row_length} are "
        f"{np.mean(survey.efficiency):.1%} full, with {np.mean(survey.samples):.1f} samples and "
        f"{np.mean(survey.images):.1f} images each."
    )
    if all(one.epochs is not None for one in config.datasets.values()):
        text += f" The epochs asked for take about {survey.steps_per_round:,.0f} steps."
    return text


def _sets_table(sets: Sequence[SetSurvey]) -> str:
    head = ("records", "share", "read", "usable", "cut", "duplicates", "length", "learnt", "images")
    rows = [
        '<tr><th class="l">set</th>'
        + "".join(f"<th>{name}</th>" for name in head)
        + '<th class="l">unusable</th></tr>'
    ]
    for one in sets:
        reasons = ", ".join(f"{reason} {count}" for reason, count in one.rejected.most_common())
        cells = (
            f"{one.records:,}",
            f"{one.share:.1%}",
            f"{one.read:,}",
            f"{one.usable:,}",
            f"{one.cut.total():,}",
            f"{one.duplicates:,}",
            *(
                f"{np.mean(values):,.1f}" if values else "-"
                for values in (one.lengths, one.targets, one.images)
            ),
        )
        rows.append(
            f'<tr><td class="l"><b>{escape(one.name)}</b><br>{escape(one.description)}</td>'
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + f'<td class="l">{escape(reasons) or "none"}</td></tr>'
        )
    return f"<table>{''.join(rows)}</table>"


def _charts(survey: Survey) -> str:
    limit = survey.config.row_length
    charts = [
        histogram(one.lengths, f"positions per sample of {escape(one.name)}", limit=limit)
        for one in survey.sets
    ]
    charts += [
        histogram([n for one in survey.sets for n in one.images], "images per sample"),
        histogram([n for one in survey.sets for n in one.targets], "learnt positions per sample"),
        histogram(survey.efficiency, "share of positions filled, per batch"),
        histogram(survey.samples, "samples per batch"),
    ]
    return f'<div class="charts">{"".join(charts)}</div>'


def _rejects_table(survey: Survey) -> str:
    rows = [
        '<tr><th class="l">set</th><th>record</th><th class="l">reason</th><th class="l">detail</th></tr>'
    ]
    for item in survey.rejected:
        where = f"{item.record}" if item.id is None else f"{item.record} ({item.id})"
        reason = f"{item.reason}, used" if item.used else item.reason
        rows.append(
            f'<tr{"" if item.used else " class=bad"}><td class="l">{escape(item.dataset)}</td>'
            f'<td>{escape(where)}</td><td class="l">{escape(reason)}</td>'
            f'<td class="l">{escape(item.detail)}</td></tr>'
        )
    return f"<table>{''.join(rows)}</table>"


def _article(shown: Shown, survey: Survey) -> str:
    sample = shown.sample
    about = (
        f"<b>{escape(shown.set_name)}</b> · record {shown.address.record} · id {escape(shown.id)} · "
        f"{len(sample)} positions, {sample.targets} learnt, {len(sample.images)} "
        + ("image" if len(sample.images) == 1 else "images")
        + (f" · {escape(shown.why)}" if shown.why else "")
    )
    text = text_html(sample, survey.tokenizer, survey.tokens_per_image)
    images = f'<div class="images">{"".join(_images(sample.images))}</div>' if sample.images else ""
    return (
        f'<article><header>{about}</header><div class="body">{images}<div class="text">{text}</div></div>'
        "</article>"
    )


def _images(images: Iterable[np.ndarray]) -> Iterable[str]:
    for number, image in enumerate(images, start=1):
        stream = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image)).save(stream, "PNG")
        data = base64.b64encode(stream.getvalue()).decode()
        shown = max(_LEAST_SHOWN, min(image.shape[0], 2 * _LEAST_SHOWN))
        yield (
            f'<figure><img alt="image {number}" width="{shown}" height="{shown}" '
            f'src="data:image/png;base64,{data}"><figcaption>image {number}</figcaption></figure>'
        )

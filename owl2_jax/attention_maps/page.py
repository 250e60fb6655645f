"""The page of `owl2 look`: one HTML file, images included, that opens in any browser."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Final

import numpy as np
from PIL import Image

from owl2_jax.attention_maps.inside import Inside, Token

_SHOWN: Final = 224  # pixels of the large images on the page
_HEAT: Final = (214, 60, 40)
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 440, 220, 40, 30, 10  # of the chart

_STYLE: Final = """
:root { --ink: #1d2733; --soft: #667385; --line: #dde3ea; --text: #2b6cb0; --image: #d63c28; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); margin: 0 auto; padding: 24px; }
body { max-width: 1240px; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 0; overflow-wrap: anywhere; }
h3 { font-size: 15px; margin: 22px 0 4px; } p { margin: 0 0 10px; }
.soft { color: var(--soft); font-size: 13px; }
.models { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 20px; }
section { border: 1px solid var(--line); border-radius: 8px; padding: 16px 18px; min-width: 0; }
.question { font-size: 17px; } .answer { font-size: 20px; margin: 4px 0 0; overflow-wrap: anywhere; }
.row { display: flex; flex-wrap: wrap; gap: 10px; align-items: flex-start; }
.see { position: relative; flex: none; border-radius: 4px; overflow: hidden; background: #fff; }
.see img { display: block; width: 100%; height: 100%; }
.see img.heat { position: absolute; inset: 0; }
figure { margin: 0; } figcaption { font-size: 11px; color: var(--soft); text-align: center; }
table { border-collapse: collapse; font-size: 14px; width: 100%; }
td, th { padding: 4px 8px 4px 0; border-bottom: 1px solid var(--line); text-align: left; }
th { color: var(--soft); font-weight: 500; font-size: 12px; }
td.piece { font: 14px ui-monospace, monospace; white-space: pre; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.bar { background: #e8edf3; border-radius: 2px; height: 9px; width: 110px; }
.bar i { display: block; height: 100%; border-radius: 2px; background: var(--text); }
.others { color: var(--soft); font-size: 12px; }
.wide { overflow-x: auto; }
svg { display: block; max-width: 100%; height: auto; } svg text { font-size: 11px; fill: var(--soft); }
"""


def render(question: str, models: Sequence[Inside]) -> str:
    """The page for one question to one or two models; all text is escaped.

    Args:
      models: what `look_inside` returned; shown side by side.
    """
    scale = max(float(one.image_mass.max()) for one in models)
    images = "".join(_see(one, None, _SHOWN) for one in models[0].images)
    return _page(question, f'<div class="row">{images}</div><br>', [_section(one, scale) for one in models])


def render_masses(title: str, masses: Sequence[tuple[str, np.ndarray, str]]) -> str:
    """The page of attention over many questions; all text is escaped.

    Args:
      masses: (model, float[L] share of attention on images by layer, a note in words); shown side by side.
    """
    sections = [
        f'<section><h2>{escape(name)}</h2><p class="soft">{escape(note)}</p>'
        f"{mass_chart(1 - on_images, on_images)}</section>"
        for name, on_images, note in masses
    ]
    return _page(title, "", sections)


def _page(heading: str, above: str, sections: Sequence[str]) -> str:
    parts = [
        "<h1>A look inside</h1>",
        f'<p class="question">{escape(heading)}</p>',
        above,
        f'<div class="models">{"".join(sections)}</div>',
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>A look inside</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _section(one: Inside, scale: float) -> str:
    share = one.image_positions / one.positions
    note = (
        f"{one.image_positions} of the prompt's {one.positions} positions ({share:.0%}) are of images; "
        f"rows of attention sum to 1 within {one.row_error:.0e}"
    )
    return "".join(
        [
            f"<section><h2>{escape(one.name)}</h2>",
            f'<p class="answer">{escape(one.answer) or "(an empty answer)"}</p>',
            "<h3>Token by token</h3>",
            _token_table(one),
            "<h3>Attention on text and on images, layer by layer</h3>",
            f'<p class="soft">Mean over heads and over the tokens of the answer. {note}.</p>',
            mass_chart(one.text_mass.mean(1), one.image_mass.mean(1)),
            "<h3>Attention on images, per layer and token</h3>",
            mass_grid(one, scale),
            "<h3>Where the answer looked</h3>",
            '<p class="soft">From its tokens to the queries, from the queries to the patches.</p>',
            _looks(one),
            "<h3>What each query reads</h3>",
            '<p class="soft">Attention over the patches, mean over layers and heads; each on its own '
            "scale.</p>",
            _queries(one),
            "</section>",
        ]
    )


def _token_table(one: Inside) -> str:
    rows = [
        "<tr><th>token</th><th>probability</th><th></th><th>on images</th><th>looked at</th><th>instead of"
        "</th></tr>"
    ]
    for number, token in enumerate(one.tokens):
        looks = "".join(
            _see(image, look, 44) for image, look in zip(one.images, one.token_looks[number], strict=True)
        )
        rows.append(
            f'<tr><td class="piece">{escape(token.text)}</td>'
            f'<td><div class="bar"><i style="width:{token.probability:.1%}"></i></div></td>'
            f'<td class="number">{token.probability:.1%}</td>'
            f'<td class="number">{one.image_mass[:, number].mean():.1%}</td>'
            f'<td><div class="row">{looks}</div></td><td class="others">{_others(token)}</td></tr>'
        )
    return f'<div class="wide"><table>{"".join(rows)}</table></div>'


def _others(token: Token) -> str:
    """Likely tokens besides the one that was taken."""
    others = [(text, chance) for text, chance in token.likeliest if text != token.text]
    return ", ".join(f"{escape(text)} {chance:.1%}" for text, chance in others[:3])


def mass_chart(on_text: np.ndarray, on_images: np.ndarray) -> str:
    """An SVG of attention mass on text and on images, each float[L] over layers; the numbers on hover."""
    lines = [(on_text, "var(--text)", "text"), (on_images, "var(--image)", "images")]
    layers = len(on_images)
    across = (_WIDTH - _LEFT - 70) / max(layers - 1, 1)
    down = _HEIGHT - _TOP - _BOTTOM
    drawn = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _TOP + down * (1 - tick)
        drawn.append(f'<line x1="{_LEFT}" x2="{_WIDTH - 66}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e3e8ee"/>')
        drawn.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.0%}</text>')
    every = -(-layers // 16)
    for layer in range(0, layers, every):
        x = _LEFT + layer * across
        drawn.append(f'<text x="{x:.1f}" y="{_HEIGHT - 16}" text-anchor="middle">{layer + 1}</text>')
    middle = _LEFT + across * (layers - 1) / 2
    drawn.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 3}" text-anchor="middle">layer</text>')
    for values, colour, label in lines:
        places = [(_LEFT + i * across, _TOP + down * (1 - float(v))) for i, v in enumerate(values)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for layer, ((x, y), value) in enumerate(zip(places, values, strict=True), 1):
            drawn.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"><title>layer {layer}: '
                f"{value:.1%} on {label}</title></circle>"
            )
        x, y = places[-1]
        drawn.append(f'<text x="{x + 8:.1f}" y="{y + 4:.1f}" style="fill:{colour}">{label}</text>')
    return (
        f'<svg class="mass" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img">'
        f"{''.join(drawn)}</svg>"
    )


def mass_grid(one: Inside, scale: float) -> str:
    """An SVG of attention mass on images, a row per layer (the first at the bottom), a column per token."""
    layers, tokens = one.image_mass.shape
    width, height, left, below = 46, min(22, max(6, 240 // layers)), 30, 16
    cells = []
    for (layer, number), mass in np.ndenumerate(one.image_mass):
        piece = escape(one.tokens[number].text)
        cells.append(
            f'<rect x="{left + number * width}" y="{(layers - 1 - layer) * height}" width="{width - 1}" '
            f'height="{height - 1}" fill="#d63c28" fill-opacity="{mass / max(scale, 1e-9):.3f}">'
            f"<title>layer {layer + 1}, {piece}: {mass:.1%}</title></rect>"
        )
    for layer in range(0, layers, max(1, -(-14 // height))):
        y = (layers - 1 - layer) * height + height / 2 + 4
        cells.append(f'<text x="{left - 6}" y="{y:.0f}" text-anchor="end">{layer + 1}</text>')
    for number, token in enumerate(one.tokens):
        x = left + number * width + width / 2
        piece = escape(token.text[:6])
        cells.append(f'<text x="{x:.0f}" y="{layers * height + 12}" text-anchor="middle">{piece}</text>')
    across, tall = left + tokens * width, layers * height + below
    return (
        f'<svg class="grid" viewBox="0 0 {across} {tall}" width="{across}" height="{tall}" role="img">'
        f"{''.join(cells)}</svg>"
    )


def _looks(one: Inside) -> str:
    looks = zip(one.images, one.looks, strict=True)
    return f'<div class="row">{"".join(_see(image, look, _SHOWN) for image, look in looks)}</div>'


def _queries(one: Inside) -> str:
    rows = []
    for image, queries in zip(one.images, one.queries, strict=True):
        size = 100 if len(queries) <= 16 else 64
        shown = "".join(
            f"<figure>{_see(image, query, size)}<figcaption>{number}</figcaption></figure>"
            for number, query in enumerate(queries, 1)
        )
        rows.append(f'<div class="row">{shown}</div>')
    return "".join(rows)


def _see(image: np.ndarray, weights: np.ndarray | None, size: int) -> str:
    """An image, with weights float32[G, G] laid over it, the largest strongest."""
    heat = "" if weights is None else f'<img class="heat" alt="" src="{_png(_heat(weights))}">'
    return (
        f'<div class="see" style="width:{size}px;height:{size}px"><img alt="the image" '
        f'src="{_png(image)}">{heat}</div>'
    )


def _heat(weights: np.ndarray) -> np.ndarray:
    """uint8[8 G, 8 G, 4]: one colour, as opaque as the weight is large, smooth between the patches."""
    strength = np.clip(weights / max(float(weights.max()), 1e-30), 0, 1)
    small = Image.fromarray((strength * 215).astype(np.uint8))
    alpha = np.asarray(small.resize((8 * weights.shape[1], 8 * weights.shape[0]), Image.Resampling.BILINEAR))
    return np.dstack([*(np.full_like(alpha, value) for value in _HEAT), alpha])


def _png(pixels: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"

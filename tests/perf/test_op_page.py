"""The page of a forecast: its map fills the frame, its text is escaped."""

import pytest

from owl2_jax.perf import op_page, op_report
from owl2_jax.perf.forecast import Forecast, Op

PEAK = 1e12


def op(part, kind, seconds, flops=0.0):
    return Op(
        "name", part, kind, "jit(f)/<decoder>/while/body/layers/mlp/up", "model/a.py:1", 32, seconds, flops
    )


OPS = (
    op("decoder", "product", 0.6, 0.45e12),
    op("decoder", "network", 0.2),
    op("vision", "norm", 0.15),
    op("rest of the step", "fill", 0.05),
)
FOUND = Forecast(1.0, OPS)
VALUES = {
    "versions": {"libtpu": "0.0.42.1", "jax": "0.10.2", "jaxlib": "0.10.2"},
    "mesh": {"fsdp": 256, "tensor": 1}, "rows": 256, "length": 2048, "images": 256, "remat": "dots",
    "accumulation": 1, "attention": "splash", "compile_seconds": 180.0,
    "forecast": {"step_seconds": 1.0, "mfu": 0.43, "left_out": op_report.LEFT_OUT},
    "roofline": {"step_seconds": 0.6, "mfu_bound": 0.735},
    "memory": {"needed": 8 * 2**30, "capacity": 16 * 2**30},
}  # fmt: skip


@pytest.mark.parametrize("sizes", [[1.0], [6, 2, 1, 1], [5, 5, 5, 1, 0.1, 0.01]])
def test_boxes_fill_the_frame_in_proportion_and_do_not_overlap(sizes):
    boxes = op_page.squarify(sizes, op_page.Box(0.25, 0, 0.5, 1.0))
    areas = [box.width * box.height for box in boxes]
    assert areas == pytest.approx([0.5 * size / sum(sizes) for size in sizes])
    for box in boxes:
        assert box.x >= 0.25 - 1e-9
        assert box.x + box.width <= 0.75 + 1e-9
        assert box.y + box.height <= 1 + 1e-9
    for number, one in enumerate(boxes):
        for other in boxes[:number]:
            across = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
            down = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
            assert min(across, down) <= 1e-9


def test_page_holds_both_times_the_map_and_every_operation_escaped():
    page = op_page.render("train on <slice>", VALUES, FOUND, PEAK)
    assert "<title>train on &lt;slice&gt;</title>" in page
    assert "<decoder>" not in page
    for words in ("1.000 s", "forecast, MFU 43.0%", "bound, MFU 73.5%", "8.00 GiB", "libtpu 0.0.42.1",
                  "decoder: network", "20.0%", "75%", "mlp/up (model/a.py:1)"):  # fmt: skip
        assert words in page
    assert page.count('<div style="left:') == len(OPS)


def test_tables_of_shares_and_peaks(capsys):
    op_report.print_ops(FOUND, PEAK)
    text = capsys.readouterr().out
    assert "decoder             product           600.00   60.0%      75%" in text
    assert "decoder 80.0%, vision 15.0%, rest of the step 5.0%" in text
    rows = op_report.as_dict(FOUND, PEAK)
    assert [group["share"] for group in rows["groups"]] == pytest.approx([0.6, 0.2, 0.15, 0.05])
    assert (rows["dearest"][0]["of_peak"], rows["dearest"][1]["of_peak"]) == (0.75, None)

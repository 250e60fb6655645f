"""The paper's ablations in miniature: one change at a time of a small model, on two cores, in minutes.

It starts from what `start.py` trains.

owl2 sweep configs/sweeps/miniature.py
owl2 sweep configs/sweeps/miniature.py --collect
"""

from studies import MODULE, VISION, data_mix, field, study, tiny_queries


def get_config() -> dict:
    axes = {
        "queries": tiny_queries([8, 1, 32]),
        "pixels": field("model.vision.image_size", [64, 32]),
        "module": MODULE,
        "vision": VISION,
        "data": data_mix("tiny", text=["facts"]),
    }
    return study("size=tiny", full={}, tiny=axes, design="one_at_a_time")

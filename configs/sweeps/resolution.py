"""What does a larger image bring? The paper: most where there is text in it.

owl2 sweep configs/sweeps/resolution.py[:size=tiny]
"""

from studies import field, study


def get_config(argument: str = "") -> dict:
    return study(
        argument,
        full={"pixels": field("model.vision.image_size", [448, 224, 336])},
        tiny={"pixels": field("model.vision.image_size", [64, 32, 48, 96])},
    )

"""Must the vision encoder train? The paper: yes, in both stages.

owl2 sweep configs/sweeps/frozen_vision.py[:size=tiny]
"""

from studies import VISION, study


def get_config(argument: str = "") -> dict:
    return study(argument, full={"vision": VISION}, tiny={"vision": VISION})

"""What does the modality-adaptive module bring, and which half of it? Norms, keys and values, both, none.

Every point starts from the same checkpoint: an image branch that it lacks is a copy of the text branch.

owl2 sweep configs/sweeps/modality_adaptive.py[:size=tiny]
"""

from studies import MODULE, study


def get_config(argument: str = "") -> dict:
    return study(argument, full={"module": MODULE}, tiny={"module": MODULE})

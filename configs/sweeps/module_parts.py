"""Which parts of a layer should have a copy per modality? The two released modules, and their parts.

mPLUG-Owl2's (norms, keys and values), mPLUG-Owl2.1's (queries, keys and values), the query
alone, all four, none. Every point starts from the same checkpoint: an image branch that it
lacks is a copy of the text branch.

owl2 sweep configs/sweeps/module_parts.py[:size=tiny|owl2_1]
"""

from studies import PARTS, study


def get_config(argument: str = "") -> dict:
    return study(argument, full={"module": PARTS}, tiny={"module": PARTS})

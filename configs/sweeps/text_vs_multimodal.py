"""Do text and images help or disturb each other in instruction tuning, and what does the module change?

The paper: together they disturb each other without the module, and help each other with it.

owl2 sweep configs/sweeps/text_vs_multimodal.py[:size=tiny]
"""

from studies import data_mix, field, study


def get_config(argument: str = "") -> dict:
    module = field("model.decoder.adaptive", ["full", "none"])
    return study(
        argument,
        full={"data": data_mix("full", text=["sharegpt", "slimorca"]), "module": module},
        tiny={"data": data_mix("tiny", text=["facts"]), "module": module},
    )

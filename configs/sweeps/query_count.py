"""How many queries does an image need? The paper: more help, up to 64.

owl2 sweep configs/sweeps/query_count.py[:size=tiny]
"""

from studies import field, study, tiny_queries


def get_config(argument: str = "") -> dict:
    return study(
        argument,
        full={"queries": field("model.abstractor.num_queries", [64, 8, 16, 32, 96, 128])},
        tiny={"queries": tiny_queries([8, 1, 2, 4, 16, 32])},
    )

"""Do larger images need more queries? Every count at every size.

owl2 sweep configs/sweeps/query_x_resolution.py[:size=tiny]
"""

from studies import field, study, tiny_queries


def get_config(argument: str = "") -> dict:
    return study(
        argument,
        full={
            "queries": field("model.abstractor.num_queries", [64, 32, 128]),
            "pixels": field("model.vision.image_size", [448, 224, 336]),
        },
        tiny={
            "queries": tiny_queries([8, 2]),
            "pixels": field("model.vision.image_size", [64, 32]),
        },
    )

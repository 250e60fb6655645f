"""Stage 1 of the paper: about 400 million pairs of images and captions from six collections.

The paper names the collections and the total, no shares. COCO, CC3M and CC12M
have the sizes that were published with them; what is left of 400 million is
shared out evenly among the three web collections, which is our choice.

Where the files go: tar shards as img2dataset writes them below `data/<set>/`,
and COCO's own annotations.
"""

TOTAL_PAIRS = 400e6  # paper, section on pre-training data
COCO = 0.6e6  # five captions for each of the 118 thousand images of train2017
CC3M = 3.3e6  # Sharma et al. 2018
CC12M = 12.4e6  # Changpinyo et al. 2021
WEB = (TOTAL_PAIRS - COCO - CC3M - CC12M) / 3  # COYO, LAION-en, DataComp


def _shards(name: str, pairs: float) -> dict:
    options = {"paths": f"data/{name}/*.tar", "dataset": name}
    return {"kind": "webdataset", "options": options, "weight": pairs}


def mixture() -> dict:
    return {
        "coco": {
            "kind": "coco_captions",
            "options": {
                "annotations": "data/coco/annotations/captions_train2017.json",
                "image_folder": "data/coco/train2017",
            },
            "weight": COCO,
        },
        "cc3m": _shards("cc3m", CC3M),
        "cc12m": _shards("cc12m", CC12M),
        "coyo": _shards("coyo", WEB),
        "laion_en": _shards("laion_en", WEB),
        "datacomp": _shards("datacomp", WEB),
    }

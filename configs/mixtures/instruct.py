"""Stage 2 of the paper: 1.23 million samples of captions, questions, regions, dialogues and text.

The paper lists the sets and the total, not how many samples of each. Here every
set counts by its records, and the run's length, 4 800 x 256, ends the reading;
where all files together hold 1.23 million, each is read once.

VQAv2, OKVQA and COCO are read as published. The other sets are files in
LLaVA's format, the one that the released training code reads. ShareGPT and
SlimOrca have no images.
"""

COCO_IMAGES = "data/coco/train2014"


def _llava(name: str) -> dict:
    options = {"path": f"data/{name}.json", "image_folder": "data", "dataset": name}
    return {"kind": "llava", "options": options, "epochs": 1.0}


def _vqa(name: str, questions: str, annotations: str) -> dict:
    options = {
        "questions": f"data/{name}/{questions}",
        "annotations": f"data/{name}/{annotations}",
        "image_folder": COCO_IMAGES,
        "dataset": name,
        # The request for short answers with which the release evaluates, too.
        "prompt": "vqa",
    }
    return {"kind": "vqa", "options": options, "epochs": 1.0}


def _coco() -> dict:
    options = {
        "annotations": "data/coco/annotations/captions_train2014.json",
        "image_folder": COCO_IMAGES,
        "prompt": "caption",
    }
    return {"kind": "coco_captions", "options": options, "epochs": 1.0}


def mixture() -> dict:
    return {
        # Captions.
        "textcaps": _llava("textcaps"),
        "coco": _coco(),
        # Questions.
        "vqav2": _vqa(
            "vqav2", "v2_OpenEnded_mscoco_train2014_questions.json", "v2_mscoco_train2014_annotations.json"
        ),
        "okvqa": _vqa(
            "okvqa", "OpenEnded_mscoco_train2014_questions.json", "mscoco_train2014_annotations.json"
        ),
        "ocr_vqa": _llava("ocr_vqa"),
        "gqa": _llava("gqa"),
        "aokvqa": _llava("aokvqa"),
        # Questions on regions.
        "refcoco": _llava("refcoco"),
        "visual_genome": _llava("visual_genome"),
        # Dialogues about images.
        "llava_instruct": _llava("llava_instruct_150k"),
        # Text alone.
        "sharegpt": _llava("sharegpt_80k"),
        "slimorca": _llava("slimorca"),
    }

"""Every benchmark by name, and names for groups of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.evals import captioning, choice, circular, embedded, judged, mmmu, text, video, vqa, yes_no
from owl2_jax.evals.base import Benchmark

BENCHMARKS: dict[str, Callable[[], Benchmark]] = {
    # Captions
    "coco_captions": captioning.CocoCaptions,
    "flickr30k": captioning.Flickr30k,
    "nocaps_val": captioning.NoCaps,
    "textcaps_val": captioning.TextCaps,
    # Short answers
    "vqav2_val": vqa.VQAv2,
    "vqav2_testdev": vqa.VQAv2TestDev,
    "okvqa_val": vqa.OKVQA,
    "aokvqa_val": vqa.AOKVQA,
    "gqa_testdev": vqa.GQA,
    "vizwiz_val": vqa.VizWiz,
    "textvqa_val": vqa.TextVQA,
    "ocrvqa_test": vqa.OCRVQA,
    # Multiple choice
    "aokvqa_choice_val": choice.AOKVQAChoice,
    "scienceqa_img": choice.ScienceQA,
    "mmbench_dev": circular.MMBench,
    "mmbench_test": circular.MMBenchTest,
    "ccbench": circular.CCBench,
    "seed_bench": choice.SeedBench,
    "qbench_dev": choice.QBench,
    "mmmu_val": mmmu.MMMU,
    # Yes or no
    "mme": yes_no.MME,
    "pope_random": lambda: yes_no.POPE("random"),
    "pope_popular": lambda: yes_no.POPE("popular"),
    "pope_adversarial": lambda: yes_no.POPE("adversarial"),
    # Judged
    "mm_vet": judged.MMVet,
    "mmhal_bench": judged.MMHalBench,
    # Text only
    "mmlu": text.MMLU,
    "bbh": text.BBH,
    "agieval": text.AGIEval,
    "arc_challenge": lambda: text.ARC("Challenge", published=65.8),
    "arc_easy": lambda: text.ARC("Easy", published=79.9),
    "mmlu_generated": lambda: text.MMLU(generate=True),
    "agieval_generated": lambda: text.AGIEval(generate=True),
    "arc_challenge_generated": lambda: text.ARC("Challenge", published=65.8, generate=True),
    "arc_easy_generated": lambda: text.ARC("Easy", published=79.9, generate=True),
    # Video
    "msvd_qa": video.MSVDQA,
    "msrvtt_qa": video.MSRVTTQA,
    "tgif_qa": video.TGIFQA,
    # Inside the package
    "easy_vqa": lambda: embedded.Embedded("easy_vqa", "easy-VQA test"),
    "drawn_group": lambda: embedded.Embedded("drawn_vqa", "Held-out drawings: group", "group"),
    "drawn_color": lambda: embedded.Embedded("drawn_vqa", "Held-out drawings: colour", "color"),
    "drawn_yes_no": lambda: embedded.Embedded("drawn_vqa", "Held-out drawings: yes/no", "yes_no"),
    "drawn_group_yes_no": lambda: embedded.Embedded(
        "drawn_vqa", "Held-out drawings: yes/no on the group", "group_yes_no"
    ),
    "facts": lambda: embedded.Embedded("facts", "Facts in held-out phrasings"),
    "scenes": lambda: embedded.Scenes("test", "images", "Scenes"),
    "scenes_easy": lambda: embedded.Scenes("test", "images", "Scenes, easy", difficulty=1),
    "scenes_hard": lambda: embedded.Scenes("test", "images", "Scenes, hard", difficulty=3),
    "scenes_composed": lambda: embedded.Scenes("composed", "images", "Scenes: unseen pairs and words"),
    "scenes_text": lambda: embedded.Scenes("test", "text", "Scenes in words"),
    "scenes_text_composed": lambda: embedded.Scenes("composed", "text", "Scenes in words: unseen pairs"),
    "scenes_text_to_image": lambda: embedded.Scenes(
        "transfer", "images", "Homes: told by text, asked by image"
    ),
    "scenes_image_to_text": lambda: embedded.Scenes(
        "transfer", "text", "Homes: told by image, asked by text"
    ),
}

GROUPS: dict[str, tuple[str, ...]] = {
    "captions": ("coco_captions", "flickr30k", "nocaps_val", "textcaps_val"),
    "pope": ("pope_random", "pope_popular", "pope_adversarial"),
    "text": ("mmlu", "bbh", "agieval", "arc_challenge", "arc_easy"),
    "text_generated": (
        "mmlu_generated",
        "bbh",
        "agieval_generated",
        "arc_challenge_generated",
        "arc_easy_generated",
    ),
    "video": ("msvd_qa", "msrvtt_qa", "tgif_qa"),
    "embedded": (
        "easy_vqa",
        "drawn_group",
        "drawn_color",
        "drawn_yes_no",
        "drawn_group_yes_no",
        "facts",
    ),
    "all_scenes": (
        "scenes",
        "scenes_composed",
        "scenes_text",
        "scenes_text_composed",
        "scenes_text_to_image",
        "scenes_image_to_text",
    ),
    # The rows of the paper's tables and of the reports beside them.
    "paper": (
        "coco_captions",
        "flickr30k",
        "vqav2_testdev",
        "okvqa_val",
        "gqa_testdev",
        "vizwiz_val",
        "textvqa_val",
        "scienceqa_img",
        "mme",
        "mmbench_dev",
        "mmmu_val",
        "mm_vet",
        "seed_bench",
        "qbench_dev",
        "pope_random",
        "pope_popular",
        "pope_adversarial",
        "mmlu",
        "bbh",
        "agieval",
        "arc_challenge",
        "arc_easy",
        "msrvtt_qa",
    ),
}


def get_benchmark(name: str) -> Benchmark:
    """Makes the benchmark of that name; raises `UnknownNameError` with near names otherwise."""
    if name not in BENCHMARKS:
        raise unknown_name("benchmark", name, [*BENCHMARKS, *GROUPS])
    return BENCHMARKS[name]()


def expand_names(names: Iterable[str]) -> list[str]:
    """Benchmark names with groups spelled out, each once, in the order given.

    Raises:
      UnknownNameError: A name is neither a benchmark nor a group.
      Owl2Error: There are no names.
    """
    wanted: dict[str, None] = {}
    for name in names:
        if name not in BENCHMARKS and name not in GROUPS:
            raise unknown_name("benchmark", name, [*BENCHMARKS, *GROUPS])
        wanted.update(dict.fromkeys(GROUPS.get(name, (name,))))
    if not wanted:
        raise Owl2Error("no benchmark is named; see `owl2 evaluate --list`")
    return list(wanted)

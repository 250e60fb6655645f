"""The registry of benchmarks."""

from __future__ import annotations

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.evals.registry import BENCHMARKS, GROUPS, expand_names, get_benchmark

PUBLISHED = {
    "coco_captions": 137.3, "flickr30k": 85.1, "vqav2_testdev": 79.4, "okvqa_val": 57.7, "textvqa_val": 54.3,
    "gqa_testdev": 56.1, "vizwiz_val": 54.5, "scienceqa_img": 68.7, "mme": 1450.19, "mmbench_dev": 64.5,
    "mmmu_val": 32.7, "seed_bench": 57.8, "qbench_dev": 62.9, "mm_vet": 36.2, "pope_random": 86.2,
    "pope_popular": 86.2, "pope_adversarial": 86.2, "mmlu": 53.4, "bbh": 45.0, "agieval": 32.7,
    "arc_challenge": 65.8, "arc_easy": 79.9, "msrvtt_qa": 46.7,
}  # fmt: skip


def test_published_scores_are_those_of_the_paper_and_the_reports():
    found = {name: get_benchmark(name).published for name in BENCHMARKS}
    assert {name: value for name, value in found.items() if value is not None} == PUBLISHED


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_can_be_made_and_names_its_missing_files(name, tmp_path):
    benchmark = get_benchmark(name)
    assert benchmark.title
    assert benchmark.image_mode == "resize"
    if benchmark.files:
        with pytest.raises(
            Owl2Error, match=r"is missing\. Get .* from .* and put it at .* under --data-root"
        ):
            next(benchmark.questions(tmp_path))


def test_titles_and_files_are_distinct_where_they_must_be():
    titles = [get_benchmark(name).title for name in BENCHMARKS]
    assert len(set(titles)) == len(titles)


def test_groups_expand_in_order_and_without_repeats():
    assert expand_names(["arc_easy", "text", "mme"]) == [
        "arc_easy", "mmlu", "bbh", "agieval", "arc_challenge", "mme"
    ]  # fmt: skip
    assert all(name in BENCHMARKS for names in GROUPS.values() for name in names)


def test_unknown_names_are_refused_with_near_ones():
    with pytest.raises(Owl2Error, match="did you mean 'textvqa_val'"):
        expand_names(["textvqa_vl"])
    with pytest.raises(Owl2Error, match="did you mean"):
        get_benchmark("easyvqa")
    with pytest.raises(Owl2Error, match="no benchmark is named"):
        expand_names([])

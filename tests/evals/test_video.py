"""Video questions, from their authors' file formats to the final score."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image

from owl2_jax.core.errors import Owl2Error
from owl2_jax.evals.video import MSRVTTQA, MSVDQA, TGIFQA, GifFrame, evenly_spaced


def test_frames_are_the_middles_of_equal_parts():
    assert evenly_spaced(8, 4) == [1, 3, 5, 7]
    assert evenly_spaced(100, 4) == [12, 37, 62, 87]
    assert evenly_spaced(3, 8) == [0, 1, 2]


def qa_rows(video):
    return [
        {
            "answer": "couch",
            "category_id": 14,
            "id": 158581,
            "question": "what is on the bed?",
            "video_id": video,
        },
        {"answer": "man", "category_id": 14, "id": 158582, "question": "who sings?", "video_id": video},
    ]


@pytest.mark.parametrize(
    ("benchmark", "name", "video"), [(MSVDQA(), "msvd_qa", "vid7010"), (MSRVTTQA(), "msrvtt_qa", "video7010")]
)
def test_folders_of_frames(folder, answer, tmp_path, benchmark, name, video):
    folder.json(f"{name}/test_qa.json", qa_rows(7010))
    for number in range(16):
        folder.picture(f"{name}/frames/{video}/{number:05d}.jpg")
    answered, summary = answer(benchmark, {"158581": "Couch", "158582": "a woman"})
    assert summary.metrics == {"accuracy": 50.0}
    question = answered[0].question
    assert question.prompt == (
        "USER: " + "<|image|>" * 8 + "what is on the bed? "
        "Answer the question using a single word or phrase. ASSISTANT: "
    )
    assert [path.stem for path in question.images] == [f"{n:05d}" for n in range(1, 16, 2)]
    (path,) = benchmark.export(answered, tmp_path)
    first = json.loads(path.read_text().splitlines()[0])
    assert first == {"id": "158581", "question": "what is on the bed?", "answer": "couch", "pred": "Couch"}
    replies = {"158581": [{"pred": "yes", "score": 5}, {}], "158582": [{"pred": "No", "score": 2}, {}]}
    judged = benchmark.judged(answered, folder.json("judge.json", replies))
    assert judged.metrics == {"accuracy": 50.0, "judged_score": 3.5}


def test_a_video_without_frames_says_how_to_make_them(folder):
    folder.json("msvd_qa/test_qa.json", qa_rows(1))
    (folder.root / "msvd_qa/frames").mkdir()
    with pytest.raises(Owl2Error, match=r"vid1 holds no frames; .* ffmpeg"):
        list(MSVDQA().questions(folder.root))


def write_gif(path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [Image.new("RGB", (4, 4), (10 * index, 0, 0)) for index in range(frames)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:])


def test_tgif_reads_animations_as_published(folder, answer):
    text = "gif_name\tquestion\tanswer\ttype\tvid_id\tdescription\n"
    text += "tumblr_a_250\twhat is the color of the dress ?\tblack\t2\tFRAMEQA1\ta dress\n"
    folder.text("tgif_qa/Test_frameqa_question.csv", text)
    write_gif(folder.root / "tgif_qa/gifs/tumblr_a_250.gif", 16)
    answered, summary = answer(TGIFQA(), {"0": "Black."})
    assert summary.metrics == {"accuracy": 100.0}
    images = answered[0].question.images
    assert len(images) == 8
    reds = [Image.open(io.BytesIO(image.read())).getpixel((0, 0))[0] for image in images]
    assert reds == pytest.approx([10 * index for index in range(1, 16, 2)], abs=6)


def test_malformed_video_files_are_named(folder):
    folder.text("tgif_qa/Test_frameqa_question.csv", "gif_name,question,answer\n")
    (folder.root / "tgif_qa/gifs").mkdir()
    with pytest.raises(Owl2Error, match="has no column 'gif_name'"):
        list(TGIFQA().questions(folder.root))
    with pytest.raises(Owl2Error, match="not an animation that can be read"):
        GifFrame(folder.text("a.gif", "no gif"), 0, 8).read()

"""Video questions, from their authors' file formats to the final score."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from owl2_jax.core.errors import Owl2Error
from owl2_jax.evals.video import MSRVTTQA, MSVDQA, TGIFQA, VideoFrame
from tests.data.test_video import write_video

PROMPT = (
    "USER: " + "<|image|>" * 8 + "what is on the bed? "
    "Answer the question using a single word or phrase. ASSISTANT: "
)


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


def middles(images):
    """The grey in the middle of each frame, as a frame number of `write_video`."""
    frames = [np.asarray(Image.open(io.BytesIO(image.read()))) for image in images]
    return [round(float(frame[frame.shape[0] // 2, frame.shape[1] // 2].mean()) / 4) for frame in frames]


@pytest.mark.parametrize(
    ("benchmark", "name", "video"),
    [
        (MSVDQA(), "msvd_qa", "YouTubeClips/mv89psg6zh4_33_46.avi"),
        (MSRVTTQA(), "msrvtt_qa", "TestVideo/video7010.mp4"),
    ],
)
def test_videos_are_read_as_published(folder, answer, tmp_path, benchmark, name, video):
    folder.json(f"{name}/test_qa.json", qa_rows(7010))
    folder.text("msvd_qa/youtube_mapping.txt", "-4wsuPCjDBc_5_15 vid1\nmv89psg6zh4_33_46 vid7010\n")
    write_video(folder.text(f"{name}/{video}", ""), count=32)
    answered, summary = answer(benchmark, {"158581": "Couch", "158582": "a woman"})
    assert summary.metrics == {"accuracy": 50.0}
    question = answered[0].question
    assert question.prompt == PROMPT
    assert np.abs(np.subtract(middles(question.images), range(2, 32, 4))).max() <= 1
    (path,) = benchmark.export(answered, tmp_path)
    first = json.loads(path.read_text().splitlines()[0])
    assert first == {"id": "158581", "question": "what is on the bed?", "answer": "couch", "pred": "Couch"}
    replies = {"158581": [{"pred": "yes", "score": 5}, {}], "158582": [{"pred": "No", "score": 2}, {}]}
    judged = benchmark.judged(answered, folder.json("judge.json", replies))
    assert judged.metrics == {"accuracy": 50.0, "judged_score": 3.5}


def test_a_video_that_is_missing_or_damaged_is_named_when_it_is_read(folder):
    folder.json("msrvtt_qa/test_qa.json", qa_rows(1))
    (folder.root / "msrvtt_qa/TestVideo").mkdir()
    question = next(MSRVTTQA().questions(folder.root))
    with pytest.raises(Owl2Error, match=r"video1\.mp4: no such file"):
        question.images[0].read()
    with pytest.raises(Owl2Error, match=r"a\.avi is damaged"):
        VideoFrame(folder.text("a.avi", "no video"), 0, 8).read()


def test_a_clip_without_a_number_is_named(folder, assert_broken):
    folder.json("msvd_qa/test_qa.json", qa_rows(2))
    (folder.root / "msvd_qa/YouTubeClips").mkdir()
    folder.text("msvd_qa/youtube_mapping.txt", "-4wsuPCjDBc_5_15 vid1\n")
    assert_broken(MSVDQA(), r"test_qa\.json, row 0 is malformed: there is no clip vid2 in msvd_qa/")
    folder.text("msvd_qa/youtube_mapping.txt", "one two three\n")
    assert_broken(MSVDQA(), r"youtube_mapping\.txt, line 1 is malformed")


def write_gif(path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [Image.new("RGB", (4, 4), (10 * index, 0, 0)) for index in range(frames)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=100)


def test_tgif_reads_animations_as_published(folder, answer):
    text = "gif_name\tquestion\tanswer\ttype\tvid_id\tdescription\n"
    text += "tumblr_a_250\twhat is the color of the dress ?\tblack\t2\tFRAMEQA1\ta dress\n"
    folder.text("tgif_qa/Test_frameqa_question.csv", text)
    write_gif(folder.root / "tgif_qa/gifs/tumblr_a_250.gif", 24)
    answered, summary = answer(TGIFQA(), {"0": "Black."})
    assert summary.metrics == {"accuracy": 100.0}
    images = answered[0].question.images
    assert len(images) == 8
    reds = [Image.open(io.BytesIO(image.read())).getpixel((0, 0))[0] for image in images]
    assert reds == pytest.approx([10 * index for index in range(1, 24, 3)], abs=6)
    assert images[0].read() is images[0].read()  # questions on one animation decode it once


def test_malformed_tables_are_named(folder):
    folder.text("tgif_qa/Test_frameqa_question.csv", "gif_name,question,answer\n")
    (folder.root / "tgif_qa/gifs").mkdir()
    with pytest.raises(Owl2Error, match="has no column 'gif_name'"):
        list(TGIFQA().questions(folder.root))

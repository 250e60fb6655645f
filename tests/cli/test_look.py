"""`owl2 look` from a checkpoint to a page, seen in a browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from owl2_jax.cli.main import main
from owl2_jax.convert.resize import resize_checkpoint
from tests.serving.browser import SCREENSHOTS, launched

CASES = Path(__file__).parents[1] / "data" / "cases" / "images"


@pytest.fixture(scope="module")
def page(checkpoint, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("look")
    resize_checkpoint(checkpoint, folder / "without module", adaptive="none")
    output = folder / "look.html"
    code = main(
        ["look", f"--checkpoint={checkpoint}", f"--compare={folder}/without module", f"--output={output}",
         f"--image={images}/0.png", "--question=What colour is the circle?", "--max-new-tokens=5"]
    )  # fmt: skip
    assert code == 0
    return output


def test_page_of_two_models_fits_wide_and_narrow_windows(page):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with launched() as browser:
        for width in (1280, 420):
            view = browser.new_page(viewport={"width": width, "height": 900})
            errors = []
            view.on("pageerror", lambda error, seen=errors: seen.append(error))
            view.goto(page.as_uri())
            assert view.locator("section").count() == 2
            assert view.locator("svg.mass polyline").count() == 4
            assert view.locator("section h2").all_inner_texts() == ["model", "without module"]
            assert view.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            assert view.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
            assert errors == []
            view.screenshot(path=SCREENSHOTS / f"look-{width}.png", full_page=True)


def test_attention_over_a_benchmark_is_printed_and_written_as_page_or_table(checkpoint, tmp_path, capsys):
    command = ["look", f"--checkpoint={checkpoint}", "--benchmark=scenes", "--limit=3"]
    assert main([*command, f"--output={tmp_path}/look.html", f"--compare={checkpoint}"]) == 0
    said = capsys.readouterr().out
    assert said.count(f"{checkpoint}: attention on images by layer, over 3 questions: ") == 2, (
        "alike in their last name"
    )
    page = (tmp_path / "look.html").read_text()
    assert page.count("<section>") == 2
    assert "3 questions" in page
    assert main([*command, f"--output={tmp_path}/look.csv", "--unrelated"]) == 0
    assert (tmp_path / "look.csv").read_text().startswith("model,layer,questions,on_images,")


def test_refuses_what_is_not_there(checkpoint, images, tmp_path, capsys):
    def refused(**changes: str) -> str:
        values = {"checkpoint": checkpoint, "image": f"{images}/0.png", "question": "What?", **changes}
        assert main(["look", *(f"--{name.replace('_', '-')}={value}" for name, value in values.items())]) == 2
        said = capsys.readouterr().err
        assert (said[:7], said.count("\n")) == ("error: ", 1)
        return said

    assert "there is no such file" in refused(image=f"{tmp_path}/no.png")
    assert f"did you mean {images}/0.png" in refused(image=f"{images}/0.pgn")
    assert "it is a folder, expected a file" in refused(image=str(images))
    assert "HEIC; save it as JPEG or PNG" in refused(image=CASES / "heic.heic")
    assert "there is no folder" in refused(output=f"{tmp_path}/no/look.html")
    assert "--max-new-tokens must be at least 1, found 0" in refused(max_new_tokens="0")
    assert "is not a directory" in refused(compare=f"{tmp_path}/no", output=f"{tmp_path}/look.html")
    assert "broken.png" in refused(image=f"{images}/broken.png", output=f"{tmp_path}/look.html")
    assert not (tmp_path / "look.html").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--image={image}", "--benchmark=scenes"], "not allowed with argument --image"),
        (["--image={image}"], "--question is missing"),
        (["--image={image}", "--question=What?", "--unrelated"], "--unrelated exchanges the images"),
        (["--benchmark=scenes", "--question=What?"], "leave --question out"),
        (["--benchmark=scenes", "--max-new-tokens=4"], "leave --max-new-tokens out"),
        (["--image={image}", "--question=What?", "--limit=2"], "--limit is of a benchmark's questions"),
        (["--image={image}", "--question=What?", "--data-root=x"], "--data-root is of a benchmark's"),
        (["--image={image}", "--question=What?", "--output={folder}/look.csv"], "one answer is a page"),
        (["--benchmark=scene"], "did you mean 'scenes'"),
        (["--benchmark=scenes_text", "--limit=2"], "scenes_text asks nothing about images"),
        (["--benchmark=scenes", "--limit=1", "--unrelated"], "ask more questions (--limit)"),
        ([], "one of the arguments --image --benchmark is required"),
    ],
)
def test_refuses_a_question_and_a_benchmark_that_do_not_fit(
    checkpoint, images, tmp_path, capsys, given, message
):
    command = ["look", f"--checkpoint={checkpoint}", f"--output={tmp_path}/look.html"]
    words = (one.format(image=f"{images}/0.png", folder=tmp_path) for one in given)
    assert main([*command, *words]) == 2
    assert message in capsys.readouterr().err

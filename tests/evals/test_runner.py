"""Running, interrupting, sharding and summing up, with a model that answers from a table."""

from __future__ import annotations

import dataclasses
import json
import threading
from functools import partial

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.images import ImageError
from owl2_jax.data.prompts import PROMPTS
from owl2_jax.evals import journal, results, runner
from owl2_jax.evals.base import Benchmark, Judged, Question, Summary, percent

PROMPT = PROMPTS["vqa"]


class Numbers(Benchmark):
    """Says each number back; the table model is right on the even ones."""

    title = "Numbers"
    prompt = PROMPT
    baselines = (("chance", 10.0),)
    published = 60.0

    def __init__(self, count=1200):
        self.count = count

    def questions(self, root):
        for number in range(self.count):
            yield Question(f"n{number}", PROMPT.text(question=f"{number}?"), PROMPT.hash, str(number))


def even(question):
    number = int(question.id[1:])
    return str(number) if number % 2 == 0 else "odd"


class Killed(BaseException):
    """Ends a run the way a signal does."""


class Dies:
    """Answers like another model, but dies after some questions."""

    name = "dies"

    def __init__(self, model, after):
        self.model, self.after = model, after

    def replies(self, questions, decoding, image_mode):
        for reply in self.model.replies(questions, decoding, image_mode):
            if self.after == 0:
                raise Killed
            self.after -= 1
            yield reply


def run(out, model, benchmark=None, **arguments):
    options = {"checkpoint": "abc", "root": out, "out": out, **arguments}
    return runner.evaluate("numbers", benchmark or Numbers(), lambda: model, **options)


def test_a_run_writes_one_line_a_question_and_the_summary(tmp_path, table_model):
    seen = []
    score = run(tmp_path, table_model(even), progress=lambda done, total: seen.append((done, total)))
    assert (score.value, score.questions, score.metrics) == (50.0, 1200, {"accuracy": 50.0})
    assert score.interval[0] < 50 < score.interval[1]
    assert (score.published, score.baselines) == (60.0, {"chance": 10.0})
    assert seen[-1] == (1200, 1200)
    rows = [json.loads(line) for line in (tmp_path / "numbers/results.jsonl").read_text().splitlines()]
    assert rows[1] == {
        "id": "n1",
        "prompt": PROMPT.text(question="1?"),
        "prompt_hash": PROMPT.hash,
        "answer": "1",
        "prediction": "odd",
        "score": 0.0,
    }
    assert [row["id"] for row in rows] == [f"n{number}" for number in range(1200)]
    logged = [json.loads(line) for line in (tmp_path / "numbers/journal-0.jsonl").read_text().splitlines()]
    assert all(row["seconds"] >= 0 for row in logged)
    assert json.loads((tmp_path / "numbers/summary.json").read_text())["value"] == 50.0


@pytest.mark.parametrize("after", [0, 1, journal.CHUNK - 1, journal.CHUNK, journal.CHUNK + 3, 1199])
def test_a_killed_and_restarted_run_ends_in_the_identical_result_file(tmp_path, table_model, after):
    run(tmp_path / "whole", table_model(even))
    with pytest.raises(Killed):
        run(tmp_path / "killed", Dies(table_model(even), after))
    assert not (tmp_path / "killed/numbers/results.jsonl").exists()
    again = table_model(even)
    run(tmp_path / "killed", again)
    # Whole chunks are kept; a chunk that was cut off is asked again from its first question.
    assert again.asked[0] == f"n{after // journal.CHUNK * journal.CHUNK}"
    files = [tmp_path / part / "numbers/results.jsonl" for part in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_line_cut_off_by_a_kill_is_dropped(tmp_path, table_model):
    with pytest.raises(Killed):
        run(tmp_path, Dies(table_model(even), journal.CHUNK + 5))
    path = tmp_path / "numbers/journal-0.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert run(tmp_path, table_model(even)).value == 50.0
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], b"{damaged", *lines[2:]]))
    with pytest.raises(Owl2Error, match="line 2 is damaged"):
        run(tmp_path, table_model(even))


def test_a_finished_run_asks_nothing_and_makes_no_model(tmp_path, table_model):
    first = run(tmp_path, table_model(even))
    before = (tmp_path / "numbers/results.jsonl").read_bytes()

    def none_needed():
        raise AssertionError("the model was made")

    options = {"checkpoint": "abc", "root": tmp_path, "out": tmp_path}
    again = runner.evaluate("numbers", Numbers(), none_needed, **options)
    assert again == first
    assert (tmp_path / "numbers/results.jsonl").read_bytes() == before


def run_in_processes(processes, action):
    """[what `action(shard)` gave or raised] of so many processes, which are threads here."""
    barrier, ends = threading.Barrier(processes, timeout=30), [None] * processes
    raised = []

    def by_first(index, first):
        try:
            if index == 0:
                first()
        except Owl2Error as error:
            raised.append(error)
        barrier.wait()
        if raised:
            raise raised[0]

    def process(index):
        try:
            ends[index] = action(runner.Shard(index, processes, barrier.wait, partial(by_first, index)))
        except Owl2Error as error:
            ends[index] = error

    threads = [threading.Thread(target=process, args=(index,)) for index in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ends


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_processes_that_share_a_run_give_the_same_file(tmp_path, table_model, processes):
    run(tmp_path / "one", table_model(even))
    scores = run_in_processes(processes, lambda shard: run(tmp_path / "many", table_model(even), shard=shard))
    assert scores[0].value == 50.0
    assert scores[1:] == [None] * (processes - 1)
    files = [tmp_path / part / "numbers/results.jsonl" for part in ("one", "many")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_too_many_damaged_images_end_every_process(tmp_path, table_model):
    damaged = {f"n{number}" for number in range(200)}
    ends = run_in_processes(3, lambda shard: run(tmp_path, Sees(table_model(even), damaged), shard=shard))
    assert [type(end) for end in ends] == [Owl2Error] * 3
    assert {str(end).partition(" (")[0] for end in ends} == {"numbers: 200 of 1200 rows are broken"}


def test_another_number_of_processes_goes_on_where_the_first_stopped(tmp_path, table_model):
    for index in (0, 1):
        shard = runner.Shard(index, 2)
        with pytest.raises(Killed):
            run(tmp_path, Dies(table_model(even), journal.CHUNK - index), shard=shard)
    model = table_model(even)
    assert run(tmp_path, model).value == 50.0
    # Process 0 had finished chunk 0; process 1 had one answer of chunk 1 missing.
    assert model.asked[0] == f"n{journal.CHUNK}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoint": "other"}, "checkpoint = 'abc', this run has 'other'"),
        ({"limit": 3}, "questions = 1200, this run has 3"),
        ({"benchmark": Numbers(1201)}, "questions = 1200, this run has 1201"),
    ],
)
def test_results_of_different_runs_never_mix(tmp_path, table_model, change, message):
    run(tmp_path, table_model(even))
    with pytest.raises(Owl2Error, match=message):
        run(tmp_path, table_model(even), **change)


def test_limit_asks_only_the_first_questions(tmp_path, table_model):
    score = run(tmp_path, table_model(even), limit=3)
    assert score.questions == 3
    assert score.value == pytest.approx(200 / 3)


def test_empty_sets_are_refused_and_repeated_ids_asked_once(tmp_path, table_model):
    with pytest.raises(Owl2Error, match="has no questions"):
        run(tmp_path, table_model(even), Numbers(0))

    class Twice(Numbers):
        def questions(self, root):
            yield from super().questions(root)
            yield from super().questions(root)

    score = run(tmp_path, table_model(even), Twice(2))
    assert (score.questions, score.broken) == (2, 2)
    assert "has the id 'n0' of another row" in score.first_broken[0]


class Seen(Numbers):
    """Numbers with an image each."""

    def questions(self, root):
        for number, question in enumerate(super().questions(root)):
            images = (root / f"{number}.png", b"bytes")
            yield dataclasses.replace(question, images=images, file="f.json", row=f"row {number}")


class Sees:
    """Answers like another model, but cannot read some images."""

    name = "sees"

    def __init__(self, model, damaged):
        self.model, self.damaged = model, damaged

    def replies(self, questions, decoding, image_mode):
        for question, reply in zip(
            questions, self.model.replies(questions, decoding, image_mode), strict=True
        ):
            bad = question.id in self.damaged
            yield ImageError(f"the image of {question.id} is damaged", "corrupt") if bad else reply


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_questions_whose_images_are_missing_are_left_out_and_named(tmp_path, table_model):
    for number in (0, 2, 3):
        (tmp_path / f"{number}.png").touch()
    model = table_model(even)
    score = run(tmp_path, model, Seen(4))
    assert model.asked == ["n0", "n2", "n3"]
    assert (score.questions, score.broken, score.value) == (3, 1, pytest.approx(200 / 3))
    why = f"f.json, row 1 cannot be asked: {tmp_path}/1.png is missing"
    assert score.first_broken == (why,)
    folder = tmp_path / "numbers"
    assert [row["id"] for row in lines_of(folder / "results.jsonl")] == ["n0", "n2", "n3"]
    (row,) = lines_of(folder / "broken.jsonl")
    assert (row["file"], row["row"]) == ("f.json", "row 1")
    assert json.loads((folder / "summary.json").read_text())["broken"] == 1
    assert results.cells(score)[6] == "3 (1 broken)"
    assert why in results.markdown([score])
    assert why in score.broken_note


def test_a_benchmark_without_any_image_ends_before_a_model_is_made(tmp_path):
    with pytest.raises(Owl2Error, match=r"every one of its 4 rows is broken, first f\.json, row 0 cannot"):
        run(tmp_path, None, Seen(4))
    assert not (tmp_path / "numbers").exists()


def test_a_damaged_image_is_left_out_and_asked_when_it_is_mended(tmp_path, table_model, image_bytes):
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(image_bytes("red"))
    (tmp_path / "2.png").write_bytes(b"damaged")
    data = {"root": tmp_path}

    class OneImage(Seen):
        def questions(self, root):
            for question in super().questions(root):
                yield dataclasses.replace(question, images=question.images[:1])

    score = run(tmp_path / "out", Sees(table_model(even), {"n2"}), OneImage(4), **data)
    assert (score.questions, score.broken) == (3, 1)
    assert score.first_broken == ("f.json, row 2 cannot be asked: the image of n2 is damaged",)
    # The same command asks nothing while the image is damaged, ...
    before = (tmp_path / "out/numbers/results.jsonl").read_bytes()
    assert run(tmp_path / "out", None, OneImage(4), **data) == score
    assert (tmp_path / "out/numbers/results.jsonl").read_bytes() == before
    # ... and all of its chunk once it is not, which gives the bytes of a run without the fault.
    (tmp_path / "2.png").write_bytes(image_bytes("red"))
    assert run(tmp_path / "out", table_model(even), OneImage(4), **data).broken == 0
    run(tmp_path / "whole", table_model(even), OneImage(4), **data)
    files = [tmp_path / part / "numbers/results.jsonl" for part in ("out", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not (tmp_path / "out/numbers/broken.jsonl").exists()


@pytest.mark.parametrize("after", [1, journal.CHUNK + 3])
def test_a_killed_run_with_broken_rows_ends_in_the_identical_files(tmp_path, table_model, after):
    (tmp_path / "data").mkdir()
    for number in set(range(1200)) - {5, 700}:
        (tmp_path / f"data/{number}.png").write_bytes(b"damaged")
    data, damaged = {"root": tmp_path / "data"}, {"n3", "n600"}
    whole = run(tmp_path / "whole", Sees(table_model(even), damaged), Seen(), **data)
    assert (whole.questions, whole.broken) == (1196, 4)
    with pytest.raises(Killed):
        run(tmp_path / "killed", Dies(Sees(table_model(even), damaged), after), Seen(), **data)
    run(tmp_path / "killed", Sees(table_model(even), damaged), Seen(), **data)
    for name in ("results.jsonl", "broken.jsonl"):
        files = [tmp_path / part / "numbers" / name for part in ("whole", "killed")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_too_large_a_share_of_broken_rows_is_an_error(tmp_path, table_model):
    for number in range(80):
        (tmp_path / f"{number}.png").touch()
    with pytest.raises(
        Owl2Error, match=r"20 of 100 rows are broken \(20\.00%; --max-broken-share is 10\.00%\)"
    ):
        run(tmp_path, None, Seen(100))
    assert run(tmp_path, table_model(even), Seen(100), max_broken_share=0.2).broken == 20
    # Damage is known only when all are asked: the results of the others are there.
    damaged = {f"n{number}" for number in range(30)}
    with pytest.raises(Owl2Error, match="50 of 100 rows are broken"):
        run(
            tmp_path / "out", Sees(table_model(even), damaged), Seen(100), root=tmp_path, max_broken_share=0.2
        )
    assert len(lines_of(tmp_path / "out/numbers/results.jsonl")) == 50


def test_answers_in_memory_name_what_could_not_be_asked(tmp_path, table_model):
    questions = list(Seen(3).questions(tmp_path))
    answered = runner.answer_in_memory(Seen(3), questions, Sees(table_model(even), {"n1"}))
    assert [getattr(one, "prediction", None) for one in answered] == ["0", None, "2"]
    assert str(answered[1]) == "f.json, row 1 cannot be asked: the image of n1 is damaged"


def test_options_are_recorded_with_their_log_likelihoods(tmp_path, table_model):
    class Letters(Numbers):
        def questions(self, root):
            for question in super().questions(root):
                yield Question(question.id, "Answer:", PROMPT.hash, "B", options=(" A", " B"))

    score = run(tmp_path, table_model(lambda question: "B"), Letters(2))
    assert score.value == 100.0
    row = json.loads((tmp_path / "numbers/results.jsonl").read_text().splitlines()[0])
    assert (row["prediction"], row["option_logprobs"]) == ("B", [-1.0, 0.0])


def test_judgements_are_read_after_the_run_without_a_model(tmp_path, table_model):
    class Graded(Numbers, Judged):
        def score(self, question, prediction):
            return None

        def judged(self, answered, judgements):
            scores = [json.loads(judgements.read_text())[entry.question.id] for entry in answered]
            return Summary({"accuracy": percent(scores)}, scores)

    assert run(tmp_path, table_model(even), Graded(2)).value is None
    path = tmp_path / "judge.json"
    path.write_text('{"n0": 1.0, "n1": 0.5}')
    score = run(tmp_path, None, Graded(2), judgements=path)
    assert score.value == 75.0
    rows = [json.loads(line) for line in (tmp_path / "numbers/results.jsonl").read_text().splitlines()]
    assert [row["score"] for row in rows] == [1.0, 0.5]
    with pytest.raises(Owl2Error, match="is not judged by a model"):
        run(tmp_path / "other", table_model(even), judgements=path)


def test_answers_in_memory_are_those_on_disk(tmp_path, table_model):
    on_disk = run(tmp_path, table_model(even))
    answered = runner.answer_in_memory(Numbers(), list(Numbers().questions(tmp_path)), table_model(even))
    assert Numbers().summarise(answered).metrics == on_disk.metrics


def test_results_of_another_checkpoint_in_the_same_folder_are_refused(tmp_path):
    journal.start(tmp_path / "facts", {"benchmark": "facts", "checkpoint": "a"})
    (tmp_path / "stage2").mkdir()
    (tmp_path / "stage2" / "run.json").write_text('{"starts": []}')  # a training run, which may lie there
    journal.check_checkpoint(tmp_path, "a")
    with pytest.raises(Owl2Error, match=r"results of another checkpoint \(facts\)"):
        journal.check_checkpoint(tmp_path, "b")


def test_changed_answers_are_another_benchmark():
    def data_hash(answer: object) -> str:
        return runner._data_hash([Question("1", "What?", PROMPT.hash, answer)])

    assert data_hash("a") == data_hash("a")
    assert data_hash("a") != data_hash("b")

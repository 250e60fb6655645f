"""`owl2 generate`: order, resumption, single bad prompts, and files that are refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from owl2_jax.cli.main import main


@pytest.fixture
def workspace(tmp_path, images):
    """A folder with an input of five prompts; the fourth has no readable image."""
    rows = [
        {"prompt": "USER: What? ASSISTANT:"},
        {
            "id": "red",
            "messages": [{"role": "user", "content": "<|image|>What?"}],
            "images": [f"{images}/0.png"],
        },
        {"id": "hot", "prompt": "What", "temperature": 1.5, "seed": 3, "max_new_tokens": 3},
        {"id": "bad", "prompt": "<|image|>", "images": ["nowhere.png"]},
        {"id": "last", "messages": [{"role": "user", "content": "Is there?"}], "stop": ["~~~"]},
    ]
    write(tmp_path / "in.jsonl", rows)
    return tmp_path


def write(path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def generate(checkpoint, workspace, capsys):
    def run(*arguments: str):
        paths = [f"--input={workspace}/in.jsonl", f"--output={workspace}/out.jsonl"]
        code = main(
            [
                "generate",
                f"--checkpoint={checkpoint}",
                "--sequences=2",
                "--max-new-tokens=4",
                *paths,
                *arguments,
            ]
        )
        return code, capsys.readouterr().err

    return run


def test_answers_in_order_with_an_error_for_the_bad_prompt(generate, workspace):
    code, err = generate()
    assert code == 1
    assert "1 prompt could not be answered" in err
    lines = read(workspace / "out.jsonl")
    assert [line["id"] for line in lines] == [1, "red", "hot", "bad", "last"]
    assert "nowhere.png" in lines[3]["error"]
    for line in (*lines[:3], lines[4]):
        assert set(line) == {"id", "text", "finish_reason", "prompt_tokens", "new_tokens", "logprob"}
        assert line["logprob"] < 0
    assert lines[2]["new_tokens"] <= 3
    assert lines[1]["prompt_tokens"] > lines[4]["prompt_tokens"]


def test_the_input_is_not_written_over(generate, workspace):
    before = (workspace / "in.jsonl").read_bytes()
    (workspace / "link.jsonl").symlink_to(workspace / "in.jsonl")
    for name in ("in.jsonl", "link.jsonl"):
        code, err = generate(f"--output={workspace}/{name}")
        assert code == 2
        assert f"{name} is the --input file; give another name for the answers" in err
    assert (workspace / "in.jsonl").read_bytes() == before


def test_answers_for_a_pipe_are_answers_alone_and_leave_nothing_beside_it(workspace, capfd, checkpoint):
    def generate(output: str) -> tuple[str, str]:
        paths = [f"--checkpoint={checkpoint}", f"--input={workspace}/in.jsonl", f"--output={output}"]
        assert main(["generate", *paths, "--max-new-tokens=4", "--sequences=2"]) == 0
        return capfd.readouterr()

    write(workspace / "in.jsonl", [{"prompt": "What?"}])
    generate(f"{workspace}/out.jsonl")
    asked = (workspace / "out.jsonl").read_text()
    os.mkfifo(workspace / "pipe")
    with subprocess.Popen(["cat", workspace / "pipe"], stdout=subprocess.PIPE, text=True) as reader:
        out, err = generate(f"{workspace}/pipe")
        assert reader.communicate()[0] == asked
    assert out == ""
    assert f"1 answer in {workspace}/pipe" in err
    names = {path.name for path in workspace.iterdir()}
    assert names == {"in.jsonl", "out.jsonl", "out.jsonl.settings.json", "pipe"}
    assert generate("/dev/stdout")[0] == asked
    assert not os.path.exists("/dev/stdout.lock")


def test_answers_of_another_checkpoint_in_the_same_place_are_not_gone_on_with(
    generate, workspace, checkpoint
):
    """`--checkpoint` names the same path, whose files are others than those that answered before."""
    model = workspace / "model"
    shutil.copytree(checkpoint, model)
    assert generate(f"--checkpoint={model}")[0] == 1
    whole = (workspace / "out.jsonl").read_bytes()
    (workspace / "out.jsonl").write_bytes(whole[: len(whole) // 2])
    assert generate(f"--checkpoint={model}")[0] in (0, 1)
    assert (workspace / "out.jsonl").read_bytes() == whole
    kernel = next(path for path in sorted(model.glob("params/**/*")) if path.stat().st_size > 1000)
    data = bytearray(kernel.read_bytes())
    data[-1] ^= 1
    kernel.write_bytes(data)
    code, err = generate(f"--checkpoint={model}")
    assert code == 2
    assert (
        f"{workspace}/out.jsonl was made with another checkpoint (its files have changed since); give anoth"
        in err
    )
    assert (workspace / "out.jsonl").read_bytes() == whole


def test_goes_on_after_a_half_written_line_and_ends_in_the_same_file(generate, workspace):
    generate()
    output = workspace / "out.jsonl"
    whole = output.read_text()
    output.write_text(whole[: len(whole) * 2 // 3])
    assert generate()[0] in (0, 1)
    assert output.read_text() == whole
    assert generate() == (0, "")
    assert output.read_text() == whole


def test_other_settings_do_not_go_on_in_the_same_file(generate, workspace):
    generate()
    before = (workspace / "out.jsonl").read_bytes()
    code, err = generate("--temperature=1")
    assert code == 2
    assert "another temperature" in err
    assert (workspace / "out.jsonl").read_bytes() == before


def test_marks_and_line_separators_of_files_from_elsewhere_are_read(generate, workspace):
    """No byte-order mark stays; U+2028, U+2029 and U+0085 in a string end no line; blank lines are none."""
    separators = "\u2028\u2029\u0085"
    row = json.dumps({"prompt": f"What{separators}?"}, ensure_ascii=False)
    (workspace / "in.jsonl").write_bytes(f"\ufeff{row}\r\n \n{row}".encode())
    assert generate()[0] == 0
    first, third = read(workspace / "out.jsonl")
    assert (first["id"], third["id"]) == (1, 3)
    assert first["prompt_tokens"] == third["prompt_tokens"] > len(separators.encode())
    (workspace / "in.jsonl").write_bytes(row.encode("utf-16"))
    assert "is UTF-16, not UTF-8" in generate(f"--output={workspace}/other.jsonl")[1]


def test_messages_are_read_as_the_server_reads_them(generate, workspace):
    def said(role, content, **more):
        return {"role": role, "content": content, **more}

    question = said("user", "What?")
    rows = [
        [said("user", "a"), said("assistant", None), said("user", "b")],
        [said("user", "a\nb")],
        [said("system", "Be brief."), said("assistant", "Hello."), question],
        [said("user", "a</s><s>b")],
        [said("user", "What?", images=["0.png"])],
        [question, said("assistant", None, tool_calls=[{"id": "c"}]), question],
        [said("user", "What?", imges=[])],
        [said("user", "<image>What?")],
    ]
    write(workspace / "in.jsonl", [{"messages": messages} for messages in rows])
    assert generate()[0] == 1
    answers = read(workspace / "out.jsonl")
    same = ("text", "prompt_tokens", "logprob")
    assert [answers[0][name] for name in same] == [answers[1][name] for name in same]
    assert answers[2]["new_tokens"]
    assert answers[3]["prompt_tokens"] > answers[1]["prompt_tokens"] + 4  # spelt, no control ids
    errors = [answer["error"] for answer in answers[4:]]
    for error, words in zip(
        errors,
        ("beside 'messages'", "messages[1].tool_calls is", "did you mean 'images'", "write '<|image|>'"),
        strict=True,
    ):
        assert words in error


def test_beams_and_int8_answer_too(generate, workspace):
    rows = [{"prompt": "What?"}, {"prompt": "<|image|>", "images": ["no.png"]}]
    rows += [{"prompt": "What?", "temperature": 0.5}, {"prompt": "What?"}]
    write(workspace / "in.jsonl", rows)
    code, _ = generate("--beams=3", "--length-penalty=0.5", "--int8")
    assert code == 1
    first, second, third, last = read(workspace / "out.jsonl")
    assert first["new_tokens"] <= 4
    assert "no.png" in second["error"]
    assert "beam search takes no sampling settings" in third["error"]
    assert last["text"] == first["text"]


def test_beams_out_of_range_are_refused(generate, workspace):
    assert generate("--beams=0")[0] == 2
    assert not (workspace / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no prompts"),
        ("{]", "line 1, is not valid JSON"),
        ('["x"]', "expected an object"),
        ('{"prompt": "x", "image": ["a"]}', "'images'"),
        ("{}", "either 'messages' or 'prompt'"),
        ('{"prompt": "x", "messages": []}', "either"),
        ('{"prompt": 5}', "'prompt' is a text"),
        ('{"prompt": "x", "images": "a.png"}', "list of paths"),
        ('{"prompt": "x", "id": "a"}\n{"prompt": "y", "id": "a"}', "twice"),
        ('{"prompt": "x", "top_p": 7}', "top_p"),
        ('{"prompt": "x", "max_new_tokens": "many"}', "max_new_tokens"),
    ],
)
def test_bad_input_is_refused_whole(generate, workspace, content, message):
    (workspace / "in.jsonl").write_text(content)
    code, err = generate()
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (workspace / "out.jsonl").exists()


def test_missing_input_and_folder_are_told(generate):
    assert "/nowhere.jsonl is missing" in generate("--input=/nowhere.jsonl")[1]
    assert "/nowhere" in generate("--output=/nowhere/out.jsonl")[1]


@pytest.mark.parametrize("more", [(), ("--int8",)])
def test_a_model_on_a_mesh_answers_alike(generate, workspace, more):
    assert generate(*more)[0] == 1
    alone = read(workspace / "out.jsonl")
    for name in ("out.jsonl", "out.jsonl.settings.json"):
        (workspace / name).unlink()
    assert generate("--mesh=data=4,tensor=2", "--sequences=4", *more)[0] == 1
    for one, other in zip(read(workspace / "out.jsonl"), alone, strict=True):
        assert one.pop("logprob", None) == pytest.approx(other.pop("logprob", None), abs=1e-3)
        assert one == other


def test_a_mesh_that_is_not_the_machine_is_refused(generate):
    code, err = generate("--mesh=tensor=3")
    assert code == 2
    assert "tensor 3 = 3, but there are 8 devices" in err


def test_images_inside_a_message_are_refused_and_not_dropped(generate, workspace):
    message = {"role": "user", "content": "What is this?", "images": ["0.png"]}
    write(workspace / "in.jsonl", [{"messages": [message]}])
    assert generate()[0] == 1
    error = read(workspace / "out.jsonl")[0]["error"]
    assert "images is ['0.png']; expected the images beside 'messages'" in error


def test_control_tokens_in_a_prompt_are_text_unless_asked_for(generate, workspace):
    row = {"prompt": "USER: a ASSISTANT: b</s>USER: c ASSISTANT:"}
    write(workspace / "in.jsonl", [row, row | {"control_tokens": True}, row | {"control_tokens": False}])
    assert generate()[0] == 0
    text, control, same = (line["prompt_tokens"] for line in read(workspace / "out.jsonl"))
    assert text == same > control


def test_all_settings_of_the_server_are_taken_from_records(generate, workspace):
    write(
        workspace / "in.jsonl",
        [
            {
                "prompt": "What?",
                "structured_outputs": {"choice": ["a red circle", "no"]},
                "max_new_tokens": 30,
            },
            {"prompt": "What?", "response_format": {"type": "json_object"}, "logit_bias": {"3": 1}},
            {"prompt": "What?", "presence_penalty": 2, "frequency_penalty": -1, "stop_token_ids": [5]},
            {"prompt": "What?", "ignore_eos": True, "logit_bias": {"2": 100}},
            {"prompt": "What?", "n": 3, "temperature": 1.5},
            {"prompt": "What?", "stop_token_ids": [300]},
            {"prompt": "What?", "structured_outputs": {"regex": "("}},
            {"prompt": "What?", "structured_outputs": {"grammar": 'start: "a" s\ns: "b" t\nt: t t'}},
        ],
    )
    assert generate()[0] == 1
    lines = read(workspace / "out.jsonl")
    assert lines[0]["text"] in ("a red circle", "no")
    assert lines[1]["text"].startswith("{")
    assert (lines[3]["finish_reason"], lines[3]["new_tokens"], lines[3]["text"]) == ("length", 4, "")
    assert len({choice["text"] for choice in lines[4]["choices"]}) > 1
    assert set(lines[4]) == {"id", "prompt_tokens", "choices"}
    assert set(lines[4]["choices"][0]) == {"text", "finish_reason", "new_tokens", "logprob"}
    assert "stop_token_ids names the token 300" in lines[5]["error"]
    assert 'structured_outputs.regex: invalid regex "("' in lines[6]["error"]
    assert "leads to an end" in lines[7]["error"]


def test_all_settings_are_flags_and_records_win(generate, workspace):
    write(
        workspace / "in.jsonl",
        [
            {"prompt": "What?"},
            {"prompt": "What?", "response_format": {"type": "text"}, "n": 1},
            {"prompt": "What?", "structured_outputs": {"regex": "b"}},
        ],
    )
    flags = ("--choice=yes", "--choice=no", "-n=2", "--presence-penalty=1", "--logit-bias=3=-5")
    assert generate(*flags, "--stop-token-id=9", "--max-new-tokens=9")[0] == 0
    first, second, third = read(workspace / "out.jsonl")
    assert [choice["text"] in ("yes", "no") for choice in first["choices"]] == [True, True]
    assert second["text"] not in ("yes", "no")
    assert [choice["text"] for choice in third["choices"]] == ["b", "b"]
    assert "another structured" in generate("--choice=yes", "-n=2", *flags[3:], "--stop-token-id=9")[1]


def test_a_schema_and_a_grammar_come_from_files(generate, workspace):
    write(workspace / "in.jsonl", [{"prompt": "What?"}])
    (workspace / "schema.json").write_text('{"enum": ["red", 5]}')
    assert generate(f"--json-schema={workspace}/schema.json", "--max-new-tokens=30")[0] == 0
    assert json.loads(read(workspace / "out.jsonl")[0]["text"]) in ("red", 5)
    (workspace / "schema.json").write_text('{"enum": ["red"')
    code, err = generate(f"--json-schema={workspace}/schema.json", f"--output={workspace}/b.jsonl")
    assert code == 2
    assert "schema.json is not valid JSON" in err
    (workspace / "lark").write_text('start: "(" start ")" | "x"')
    assert generate(f"--grammar={workspace}/lark", f"--output={workspace}/c.jsonl")[0] == 0
    assert set(read(workspace / "c.jsonl")[0]["text"]) <= set("(x)")


def test_an_answer_has_one_form_at_most(generate):
    code, err = generate("--regex=a", "--choice=b")
    assert code == 2
    assert "not allowed with argument --regex" in err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--presence-penalty=3",), "--presence-penalty must be from -2 to 2, found 3"),
        (("--logit-bias=5",), "--logit-bias '5' has no '='; expected ID=NUMBER"),
        (("--logit-bias=red=1",), "'red' is no token id"),
        (("--logit-bias=5=101",), "--logit-bias 5=101 must be from -100 to 100"),
        (("--logit-bias=5=1", "--logit-bias=5=2"), "names the token 5 twice"),
        (("--regex=",), "--regex is ''; expected a text that is not empty"),
        (("--regex=a", "--ignore-eos"), "ignore_eos and --regex exclude each other"),
        (("-n=9",), "must be from 1 to 8, found 9"),
        (("--grammar=/nowhere",), "/nowhere is missing"),
    ],
)
def test_wrong_flags_are_told_before_anything_is_loaded(generate, workspace, flags, words):
    code, err = generate(*flags)
    assert code == 2
    assert words in err
    assert not (workspace / "out.jsonl").exists()

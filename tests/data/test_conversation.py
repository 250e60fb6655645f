from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from owl2_jax.core.axes import IGNORE_LABEL, IMAGE_TOKEN
from owl2_jax.core.errors import UnknownNameError
from owl2_jax.core.prompt_format import PromptFormat
from owl2_jax.data.conversation import (
    TEMPLATES,
    ConversationError,
    ImageCountError,
    ImageTagError,
    encode_dialogue,
    encode_prompt,
    encode_text,
    expand,
    from_llava,
    render,
    truncate,
)
from owl2_jax.data.tokenizer import Tokenizer
from owl2_jax.data.tokenizers import open_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "text"
TEXTS = json.loads((GOLDEN / "text.json").read_text(encoding="utf-8"))
TAG = "<|image|>"
OWL2, V1, PLAIN = (PromptFormat(name) for name in ("mplug_owl2", "v1", "plain"))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return open_tokenizer(GOLDEN / "tokenizer.model")


def name(case: dict) -> str:
    return "-".join(
        str(case[key]) for key in ("template", "name", "closed", "preprocess_multimodal") if key in case
    )


def chat(*contents: str) -> list[dict[str, str]]:
    """Messages of user and assistant in turn."""
    return [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]


def learnt_text(tokenizer: Tokenizer, encoded) -> str:
    return tokenizer.decode(encoded.labels[encoded.labels != IGNORE_LABEL], skip_special=False)


# ---- golden data -----------------------------------------------------------


@pytest.mark.parametrize("case", TEXTS["encode"], ids=lambda c: repr(c["prompt"]))
def test_prompt_strings_give_the_golden_ids(tokenizer, case):
    ids = encode_text(case["prompt"], tokenizer, TAG, control_tokens=True)
    assert ids.tolist() == case["tokenizer_image_token_legacy"]


@pytest.mark.parametrize("case", TEXTS["prompts"], ids=name)
def test_prompts_give_the_golden_text_and_ids(tokenizer, case):
    messages = chat(*[content for _, content in case["messages"] if content is not None])
    encode = encode_dialogue if case["closed"] else encode_prompt
    assert render(messages, PromptFormat(case["template"])) == case["prompt"]
    assert (
        encode(messages, PromptFormat(case["template"]), tokenizer, control_tokens=True).ids.tolist()
        == (case["input_ids_legacy"])
    )


@pytest.mark.parametrize("case", TEXTS["dialogues"], ids=name)
def test_dialogues_give_the_golden_text_ids_and_labels(tokenizer, case):
    messages = from_llava(case["conversations"], file_tag=TAG)
    encoded = encode_dialogue(messages, PromptFormat(case["template"]), tokenizer, control_tokens=True)
    assert render(messages, PromptFormat(case["template"])) == case["prompt"]
    assert encoded.ids.tolist() == case["input_ids_legacy"]
    if case["warning_legacy"]:
        # The original gave up on these: the answer is learnt all the same.
        answer = case["conversations"][-1]["value"]
        assert learnt_text(tokenizer, encoded) == f" {answer}</s>"
    else:
        assert encoded.labels.tolist() == case["labels_legacy"]


@pytest.mark.parametrize("case", [c for c in TEXTS["plain"] if c["tokenizer"] == "legacy"])
def test_captions_give_the_golden_ids_and_labels(tokenizer, case):
    encoded = encode_dialogue(from_llava(case["conversations"], file_tag=TAG), PLAIN, tokenizer)
    assert encoded.ids.tolist() == case["input_ids"]
    assert encoded.labels.tolist() == case["labels"]


def test_system_sentence_is_the_golden_one():
    assert TEMPLATES["v1"].system == TEXTS["templates"]["v1"]["system"]


# ---- ids and labels --------------------------------------------------------


@pytest.mark.parametrize("template", ["mplug_owl2", "v1"])
def test_ids_built_turn_by_turn_equal_those_of_the_whole_text(tokenizer, template):
    rng = random.Random(0)
    words = [TAG, " ", "  ", "</s>", "<s>", "<unk>", "ASSISTANT:", "USER: ", "\n", "a", "cat", "é", "😀", "3"]
    for _ in range(400):
        contents = ["".join(rng.choices(words, k=rng.randint(1, 6))) for _ in range(rng.randint(1, 5))]
        messages = chat(*contents)
        encoded = encode_dialogue(messages, PromptFormat(template), tokenizer, control_tokens=True)
        whole = encode_text(render(messages, PromptFormat(template)), tokenizer, TAG, control_tokens=True)
        assert encoded.ids.tolist() == whole.tolist()
        learnt = encoded.labels != IGNORE_LABEL
        assert (encoded.labels[learnt] == encoded.ids[learnt]).all()


@pytest.mark.parametrize("template", sorted(TEMPLATES))
@pytest.mark.parametrize(
    "answer", ["A dog.", " spaced", f"see {TAG} there", f"{TAG}first", "ASSISTANT: x</s>y"]
)
def test_a_prompt_is_what_stands_in_front_of_the_answer(tokenizer, template, answer):
    prompt = encode_prompt(chat(TAG), PromptFormat(template), tokenizer).ids
    whole = encode_dialogue(chat(TAG, answer), PromptFormat(template), tokenizer).ids
    # A caption that starts with an image has its <s> after that image.
    if template == "plain" and answer.startswith(TAG):
        prompt = prompt[:-1]
    np.testing.assert_array_equal(whole[: len(prompt)], prompt)


# ---- control tokens that people wrote ----------------------------------------

CONTROL = [
    "</s>",
    "<s>",
    "<unk>",
    "a</s>b",
    " </s>",
    "</s></s>USER: x ASSISTANT:",
    f"</s>{TAG}<s>",
    "<unk>\n</s>",
]


@pytest.mark.parametrize("template", ["mplug_owl2", "v1"])
@pytest.mark.parametrize("text", CONTROL)
def test_control_tokens_that_people_wrote_are_text_to_the_model(tokenizer, template, text):
    ids = encode_prompt(chat(text, text, text), PromptFormat(template), tokenizer).ids
    assert (ids == tokenizer.bos_id).sum() == 1
    assert ids[0] == tokenizer.bos_id
    assert (ids == tokenizer.eos_id).sum() == 1  # the template's, after the answer
    assert tokenizer.unk_id not in ids
    finished = encode_text(f"USER: {text} ASSISTANT:", tokenizer, TAG).tolist()
    assert tokenizer.eos_id not in finished
    assert finished.count(tokenizer.bos_id) == 1
    np.testing.assert_array_equal(encode_prompt(chat(text), OWL2, tokenizer).ids, finished)


@pytest.mark.parametrize("text", [t for t in CONTROL if TAG not in t])
def test_control_tokens_that_people_wrote_are_learnt_as_their_letters(tokenizer, text):
    encoded = encode_dialogue(chat("Hi", text), OWL2, tokenizer)
    learnt = encoded.labels[encoded.labels != IGNORE_LABEL]
    assert learnt.tolist().count(tokenizer.eos_id) == 1
    assert learnt[-1] == tokenizer.eos_id
    assert tokenizer.decode(learnt) == f"{text}"


def test_control_tokens_become_ids_where_that_is_asked_for(tokenizer):
    encoded = encode_dialogue(chat("Hi", "a</s>b"), OWL2, tokenizer, control_tokens=True)
    assert encoded.labels.tolist().count(tokenizer.eos_id) == 2
    prompt = encode_prompt(chat("a</s>b"), OWL2, tokenizer, control_tokens=True)
    assert prompt.ids.tolist().count(tokenizer.eos_id) == 1


def test_a_dialogue_without_control_tokens_has_the_same_ids_either_way(tokenizer):
    rng = random.Random(0)
    words = [TAG, " ", "  ", "ASSISTANT:", "USER: ", "\n", "a", "cat", "é", "😀", "3", "<", "s>"]
    for _ in range(200):
        messages = chat(*["".join(rng.choices(words, k=rng.randint(1, 6))) for _ in range(rng.randint(1, 5))])
        if any(tokenizer.control_tokens(message["content"]) for message in messages):
            continue
        plain, control = (
            encode_dialogue(messages, V1, tokenizer, control_tokens=choice) for choice in (False, True)
        )
        assert plain.ids.tolist() == control.ids.tolist()
        assert plain.labels.tolist() == control.labels.tolist()


def test_everything_after_the_role_is_learnt_and_nothing_else(tokenizer):
    encoded = encode_dialogue(chat("Hi", "One ASSISTANT: two", "Go on", "Three."), V1, tokenizer)
    assert learnt_text(tokenizer, encoded) == " One ASSISTANT: two</s> Three.</s>"
    assert encoded.ids.dtype == encoded.labels.dtype == np.int32


def test_several_images_stay_where_they_were_written(tokenizer):
    messages = chat(f"{TAG} and {TAG}?", "Both.", f"now {TAG}", f"like{TAG}this")
    encoded = encode_dialogue(messages, OWL2, tokenizer, num_images=4)
    assert encoded.num_images == 4
    assert (encoded.labels[encoded.ids == IMAGE_TOKEN] == IGNORE_LABEL).all()
    assert learnt_text(tokenizer, encoded) == " Both.</s> like this</s>"


def test_the_published_prompts_end_in_a_lone_word_boundary(tokenizer):
    messages = chat(f"{TAG}What is it?")
    tight = encode_prompt(messages, OWL2, tokenizer).ids.tolist()
    spaced = encode_prompt(messages, OWL2, tokenizer, trailing_space=True).ids.tolist()
    assert spaced == [*tight, tokenizer.encode(" x")[0]]
    assert render(messages, OWL2, trailing_space=True) == f"USER: {TAG}What is it? ASSISTANT: "


def test_a_trailing_space_needs_an_open_turn(tokenizer):
    with pytest.raises(ConversationError, match="no turn is open"):
        render(chat("Hi", "Ho"), OWL2, trailing_space=True)
    with pytest.raises(ConversationError, match="no turn is open"):
        encode_prompt(chat(TAG), PLAIN, tokenizer, trailing_space=True)


def test_history_closes_each_answer_once(tokenizer):
    ids = encode_prompt(chat("Hi", "Ho", "And?"), OWL2, tokenizer).ids.tolist()
    assert ids.count(tokenizer.eos_id) == 1


def test_no_position_of_a_prompt_is_learnt(tokenizer):
    encoded = encode_prompt(chat("Hi", "Ho", "And?"), OWL2, tokenizer)
    assert encoded.num_supervised == 0


@pytest.mark.parametrize("contents", [("Say nothing", ""), ("Say something",), ("a", "", "b")])
def test_a_dialogue_that_teaches_nothing_can_be_told(tokenizer, contents):
    encoded = encode_dialogue(chat(*contents), OWL2, tokenizer)
    assert encoded.num_supervised == 0
    assert encoded.empty_answers == ("" in contents)


def test_an_empty_caption_can_be_told(tokenizer):
    encoded = encode_dialogue(chat(TAG, ""), PLAIN, tokenizer)
    assert (encoded.num_supervised, encoded.empty_answers) == (0, 1)


def test_a_last_question_without_an_answer_keeps_the_earlier_answers(tokenizer):
    encoded = encode_dialogue(chat("Hi", "Ho", "And?"), OWL2, tokenizer)
    assert learnt_text(tokenizer, encoded) == " Ho</s>"


def test_captions_drop_the_words_of_the_question_and_keep_every_image(tokenizer):
    messages = chat(f"Describe {TAG} and {TAG}.", "Two boats.")
    assert render(messages, PLAIN) == f"{TAG}{TAG}Two boats. "


def test_a_caption_without_a_image_is_plain_text(tokenizer):
    encoded = encode_dialogue(chat("", "Two boats."), PLAIN, tokenizer)
    assert encoded.ids.tolist() == tokenizer.encode("Two boats. ", bos=True)
    assert encoded.num_supervised == len(encoded.ids) - 1


# ---- expansion and truncation ----------------------------------------------


def test_each_image_takes_its_positions_and_no_label():
    ids = np.array([1, IMAGE_TOKEN, IMAGE_TOKEN, 7, IMAGE_TOKEN], np.int32)
    labels = np.array([IGNORE_LABEL, IGNORE_LABEL, IGNORE_LABEL, 7, IGNORE_LABEL], np.int32)
    expanded = expand(ids, labels, 3)
    assert expanded.tokens.tolist() == [1, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0]
    assert expanded.labels.tolist() == [IGNORE_LABEL] * 7 + [7] + [IGNORE_LABEL] * 3
    assert expanded.image_starts.tolist() == [1, 4, 8]
    assert {a.dtype for a in (expanded.tokens, expanded.labels, expanded.image_starts)} == {
        np.dtype(np.int32)
    }


def test_text_without_images_expands_to_itself():
    expanded = expand(np.array([1, 5, 6], np.int32), np.array([IGNORE_LABEL, 5, 6], np.int32), 65)
    assert expanded.tokens.tolist() == [1, 5, 6]
    assert expanded.image_starts.shape == (0,)
    assert expanded.num_supervised == 2


@pytest.mark.parametrize("max_length", range(13))
def test_truncation_keeps_or_drops_a_image_whole_and_counts(max_length):
    ids = np.array([1, IMAGE_TOKEN, 5, IMAGE_TOKEN, 6, 7], np.int32)
    labels = np.array([IGNORE_LABEL, IGNORE_LABEL, 5, IGNORE_LABEL, 6, 7], np.int32)
    whole = expand(ids, labels, 3)
    cut = truncate(whole, max_length, 3)
    kept = {0: 0, 1: 1, 2: 1, 3: 1, 4: 4, 5: 5, 6: 5, 7: 5, 8: 8, 9: 9, 10: 10}.get(max_length, 10)
    images = (kept > 1) + (kept > 5)
    assert cut.sample.tokens.tolist() == whole.tokens[:kept].tolist()
    assert len(cut.sample.labels) == kept
    assert cut.sample.image_starts.tolist() == [1, 5][:images]
    assert (cut.dropped_tokens, cut.dropped_images) == (10 - kept, 2 - images)
    assert cut.dropped_supervised == 3 - cut.sample.num_supervised == (kept < 5) + (kept < 9) + (kept < 10)


# ---- bad input -------------------------------------------------------------


@pytest.mark.parametrize(("run_tag", "file_tag"), [("<|image|>", "<image>"), ("<image>", "<|image|>")])
def test_the_other_image_tag_is_refused_by_name(tokenizer, run_tag, file_tag):
    messages = chat(f"{file_tag}What?", "A dog.")
    with pytest.raises(ImageTagError, match=r"found the image tag '<\|?image\|?>', expected") as error:
        encode_dialogue(messages, OWL2.with_tag(run_tag), tokenizer)
    assert file_tag in str(error.value)
    assert run_tag in str(error.value)
    assert error.value.reason == "wrong_tag"
    with pytest.raises(ImageTagError):
        from_llava([{"from": "human", "value": messages[0]["content"]}], file_tag=run_tag)


def test_either_tag_gives_the_same_ids(tokenizer):
    ours = encode_dialogue(chat("<|image|>\nWhat?", "A dog."), OWL2, tokenizer)
    llava = encode_dialogue(chat("<image>\nWhat?", "A dog."), OWL2.with_tag("<image>"), tokenizer)
    np.testing.assert_array_equal(ours.ids, llava.ids)


def test_an_image_tag_nobody_knows_is_refused(tokenizer):
    with pytest.raises(UnknownNameError, match="unknown image tag '<img>'"):
        encode_dialogue(chat("Hi", "Ho"), OWL2.with_tag("<img>"), tokenizer)


def test_an_unknown_template_is_refused_with_the_nearest_name(tokenizer):
    with pytest.raises(UnknownNameError, match="did you mean 'mplug_owl2'"):
        encode_prompt(chat("Hi"), PromptFormat("mplug_owl"), tokenizer)


@pytest.mark.parametrize("images", [0, 1, 3])
def test_images_and_placeholders_must_be_as_many(tokenizer, images):
    messages = chat(f"{TAG} or {TAG}?")
    with pytest.raises(ImageCountError, match=f"found 2 image tags .* for {images} images"):
        encode_prompt(messages, OWL2, tokenizer, num_images=images)
    encode_prompt(messages, OWL2, tokenizer, num_images=2)


@pytest.mark.parametrize("alike", ["<img>", "<image_1>", "<IMAGE>", "<|picture|>"])
def test_a_count_error_points_at_what_looks_like_a_tag(tokenizer, alike):
    with pytest.raises(ImageCountError) as error:
        encode_prompt(chat(f"{alike} What?"), OWL2, tokenizer, num_images=1)
    assert f"'{alike}' is not this run's tag" in str(error.value)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "empty"),
        ("Hi", "expected a list"),
        (None, "expected a list"),
        ([{"role": "assistant", "content": "Hi"}], "message 0 is the assistant's, expected the user's"),
        (chat("a", "b")[:1] * 2, "message 1 is the user's, expected the assistant's"),
        ([{"role": "system", "content": "Hi"}], "role 'system'"),
        ([{"role": "user"}], "text as content"),
        ([{"role": "user", "content": 3}], "text as content"),
        ([{"role": [], "content": "Hi"}], "role"),
        (["Hi"], "text as content"),
        (chat("", "b"), "message 0, the user's, is empty"),
        (chat("a", "b", ""), "message 2, the user's, is empty"),
    ],
)
def test_messages_that_are_no_dialogue_are_refused(tokenizer, messages, message):
    with pytest.raises(ConversationError, match=message):
        encode_dialogue(messages, OWL2, tokenizer)
    with pytest.raises(ConversationError, match=message):
        render(messages, OWL2)


def test_a_prompt_must_end_with_the_user(tokenizer):
    with pytest.raises(ConversationError, match="expected the user's"):
        encode_prompt(chat("Hi", "Ho"), OWL2, tokenizer)


@pytest.mark.parametrize("contents", [(TAG, "a", "b", "c"), ("words only", "a")])
def test_captions_have_one_turn_and_no_words_without_a_image(tokenizer, contents):
    with pytest.raises(ConversationError):
        encode_dialogue(chat(*contents), PLAIN, tokenizer)


# ---- LLaVA's form ----------------------------------------------------------


def test_llava_turns_become_messages_with_the_runs_tag():
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}]
    assert from_llava(turns) == chat(f"{TAG}\nWhat?", "A dog.")


def test_a_greeting_before_the_first_question_is_left_out():
    turns = [{"from": "gpt", "value": "Hello"}, {"from": "human", "value": "Hi"}]
    assert from_llava(turns) == chat("Hi")


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ({"from": "human"}, "expected a list of turns"),
        ("text", "expected a list of turns"),
        (None, "expected a list of turns"),
        ([None], "turn 0"),
        ([{"from": "human"}], "text as 'value'"),
        ([{"from": "human", "value": None}], "text as 'value'"),
        ([{"from": "bing", "value": "Hi"}], "from 'bing'; expected 'human' or 'gpt'"),
        ([{"from": ["x"], "value": "Hi"}], "expected 'human' or 'gpt'"),
    ],
)
def test_turns_of_another_form_are_refused(turns, message):
    with pytest.raises(ConversationError, match=message):
        from_llava(turns)


def test_unknown_tags_of_a_file_are_refused():
    with pytest.raises(UnknownNameError, match="image tag"):
        from_llava([], file_tag="<img>")

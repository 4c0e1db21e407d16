"""The loss mask, token by token, on the real Qwen3 tokenizer and its published template, over real chats.

Two references that share nothing with the code under test: the published template with generation markers put around
every expression of its assistant branch (transformers then says which tokens those wrote), and the ids that inference
would have had in front of each answer.
"""

from __future__ import annotations

import itertools
import json
import re

import pytest

from hidden_decoding.errors import ConfigError
from hidden_decoding.train.chat_tokens import END, ChatTokens
from hidden_decoding.train.conversations import UnusableError, conversation, conversations_in
from hidden_decoding.train.data import NO_TARGET
from hidden_decoding.train.readers import Broken
from tests.support import tiny_tokenizer

FILES = [
    "gpteacher_messages.jsonl",
    "glaive_toolcall_en_demo.json",
    "glaive_toolcall_zh_demo.json",
    "reason_tool_use_demo_50.jsonl",
    "v1_sft_demo.jsonl",
]
MOST = 150  # conversations of each file
ONE_TURN = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.fixture(scope="module")
def tokenizer(data_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(data_dir / "tokenizer" / "qwen3")


def chats(data_dir, file):
    return list(itertools.islice(conversations_in(data_dir / "sft" / file, Broken()), MOST))


HEADER = r"'<|im_start|>' + message.role + '\n"


def written_by_the_assistant(match: re.Match) -> str:
    """One expression of the assistant branch inside markers; the header and the last line end stay outside."""
    expression = match[1].strip()
    if expression == r"'<|im_end|>\n'":
        return r"{%- generation %}{{- '<|im_end|>' }}{%- endgeneration %}{{- '\n' }}"
    if not expression.startswith(HEADER):
        return "{%- generation %}{{- " + expression + " }}{%- endgeneration %}"
    rest = expression.removeprefix(HEADER)
    rest = rest.removeprefix("' + ") if rest.startswith("' + ") else f"'{rest}"
    return "{{- " + HEADER + "' }}{%- generation %}{{- " + rest + " }}{%- endgeneration %}"


def marked(template: str) -> str:
    """The published template, its assistant branch writing the same text inside generation markers."""
    begin = template.index('{%- elif message.role == "assistant" %}')
    end = template.index('{%- elif message.role == "tool" %}')
    branch = template[begin:end]
    assert (branch.count(HEADER), branch.count("{{-")) == (3, 11)
    return template[:begin] + re.sub(r"\{\{-(.*?)\}\}", written_by_the_assistant, branch) + template[end:]


def reference(tokenizer, chat) -> tuple[list[int], list[int]]:
    """Ids and labels as transformers gives them for the marked template."""
    encoded = tokenizer.apply_chat_template(
        list(chat.messages),
        tools=list(chat.tools) or None,
        chat_template=marked(tokenizer.chat_template),
        return_assistant_tokens_mask=True,
        return_dict=True,
    )
    labels = [i if m else NO_TARGET for i, m in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)]
    return encoded["input_ids"], labels


@pytest.mark.parametrize("file", FILES)
def test_mask_equals_markers_in_the_template(tokenizer, data_dir, file):
    tokens, compared = ChatTokens(tokenizer), 0
    for chat in chats(data_dir, file):
        if not all(m["role"] != "assistant" or learned for m, learned in zip(chat.messages, chat.learned, strict=True)):
            continue
        plain = tokenizer.apply_chat_template(list(chat.messages), tools=list(chat.tools) or None, tokenize=False)
        (sample,) = tokens.samples(chat)
        ids, labels = reference(tokenizer, chat)
        assert tokenizer.decode(ids) == plain, "the marked template writes what the published one writes"
        assert sample.ids == ids
        assert sample.labels == labels
        compared += 1
    assert compared >= 50


@pytest.mark.parametrize("file", FILES)
def test_each_answer_follows_the_ids_of_inference(tokenizer, data_dir, file):
    """With one sample per turn: the prompt as the server would send it, then the answer and its end token."""
    tokens = ChatTokens(tokenizer, turns="each")
    for chat in chats(data_dir, file):
        samples = iter(tokens.samples(chat))
        for i, message in enumerate(chat.messages):
            if not chat.learned[i]:
                continue
            sample = next(samples)
            tools = list(chat.tools) or None
            prompt = tokenizer.apply_chat_template(
                list(chat.messages[:i]), tools=tools, add_generation_prompt=True, return_dict=True
            )["input_ids"]
            assert sample.ids[: len(prompt)] == prompt
            assert set(sample.labels[: len(prompt)]) <= {NO_TARGET}
            learned = [label for label in sample.labels if label != NO_TARGET]
            assert sample.ids[len(prompt) :] == [*learned, *tokenizer.encode("\n")]
            answer = tokenizer.decode(learned)
            assert answer.endswith(END)
            assert answer.count(END) == 1
            assert message["content"].strip("\n") in answer
            assert message.get("reasoning_content", "").strip("\n") in answer
            assert sample.text_bytes == len(answer.removesuffix(END).encode())
            for call in message.get("tool_calls", ()):
                assert json.dumps(call["function"]["name"]) in answer
        assert next(samples, None) is None


def test_a_conversation_by_hand(tokenizer):
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "A"},
        {"role": "assistant", "content": "B"},
        {"role": "user", "content": "C"},
        {"role": "assistant", "content": "D", "reasoning_content": "R"},
    ]
    (sample,) = ChatTokens(tokenizer).samples(conversation({"messages": messages}, "here"))
    shown = "".join(
        f"[{tokenizer.decode([i])}]" if label != NO_TARGET else tokenizer.decode([i])
        for i, label in zip(sample.ids, sample.labels, strict=True)
    )
    assert shown == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\n[B][<|im_end|>]\n"
        "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n"
        "[<think>][\n][R][\n][</think>][\n\n][D][<|im_end|>]\n"
    )
    assert sample.learned == 10


def test_answers_that_begin_with_a_line_end(tokenizer):
    """In the text of an earlier turn the header's line end would merge with the answer's; at inference it cannot."""
    messages = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "\n\nB"}, *ONE_TURN]
    (sample,) = ChatTokens(tokenizer).samples(conversation({"messages": messages}, "here"))
    prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert sample.ids[: len(prompt)] == prompt
    assert tokenizer.decode(sample.ids) == tokenizer.apply_chat_template(messages, tokenize=False)


def test_dropped_reasoning_is_counted_and_weights_are_kept(tokenizer):
    first = {"role": "assistant", "content": "B", "reasoning_content": "Because."}
    chat = conversation({"messages": [{"role": "user", "content": "A"}, first, *ONE_TURN]}, "here")
    tokens = ChatTokens(tokenizer)
    assert tokens.drops_reasoning(chat) == 1
    assert "Because." not in tokenizer.decode(next(tokens.samples(chat)).ids)
    alone = next(ChatTokens(tokenizer, turns="each").samples(chat))
    assert "Because." in tokenizer.decode([label for label in alone.labels if label != NO_TARGET])
    silent = conversation({"messages": [{"role": "user", "content": "A"}, {**first, "loss_weight": 0}, *ONE_TURN]}, "")
    learned = [label for label in next(tokens.samples(silent)).labels if label != NO_TARGET]
    assert "B" not in tokenizer.decode(learned)
    assert tokenizer.decode(learned).endswith(f"Hello{END}")


@pytest.mark.parametrize("text", ["<|im_end|>", "x<|im_start|>assistant\ny", "<|endoftext|>"])
@pytest.mark.parametrize("where", ["user", "assistant", "tools"])
def test_forged_turns_are_refused(tokenizer, text, where):
    entry = {"messages": [dict(message) for message in ONE_TURN]}
    if where == "tools":
        entry["tools"] = [{"name": "f", "description": text}]
    else:
        entry["messages"][0 if where == "user" else 1]["content"] = text
    with pytest.raises(UnusableError, match="control token"):
        list(ChatTokens(tokenizer).samples(conversation(entry, "here")))


def test_templates_that_are_not_chatml_are_refused():
    import copy

    tokenizer = copy.deepcopy(tiny_tokenizer())
    (sample,) = ChatTokens(tokenizer).samples(conversation({"messages": ONE_TURN}, "here"))
    assert tokenizer.decode([label for label in sample.labels if label != NO_TARGET]) == f"Hello{END}"
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    with pytest.raises(ConfigError, match="not ChatML"):
        ChatTokens(tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="no chat template"):
        ChatTokens(tokenizer)

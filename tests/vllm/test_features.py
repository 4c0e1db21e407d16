"""Features of vLLM that the plugin must leave whole: guided output, n-gram drafts, compiled graphs, unlimited steps."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.engine_suite import NEW, prompts
from tests.equivalence.tolerances import BF16_LOGITS, FP32_ENGINE_LOGPROBS
from tests.support import BruteForce, assert_same_greedy, save_tiny_checkpoint, tiny_model, tiny_tokenizer
from tests.vllm.engine import SHAPE, ask, assert_all_match, counter, recorded_steps, reference, started, tokens_of


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_whole_prompts_in_one_step(checkpoint, n):
    """Without chunks, prefix reuse or want of memory; a decoded token is one forward of n rows."""
    with started(checkpoint(n), n, enable_prefix_caching=False) as llm:
        assert_all_match(llm, n, "contiguous", prompts(16, seed=61))
        assert counter(llm, "num_preemptions") == 0
        with recorded_steps(llm) as steps:
            ask(llm, [[5, 6, 7]], max_tokens=5)
        assert [len(rows) for rows in steps] == [3 * n, *[n] * 4]


@pytest.mark.slow
def test_compiled(checkpoint):
    """torch.compile with a dynamic number of tokens; other sizes than it was compiled for."""
    n, scheme = 4, "linear"
    with started(checkpoint(n, scheme), n, enforce_eager=False, max_num_batched_tokens=29) as llm:
        assert llm.llm_engine.vllm_config.compilation_config.mode.value > 0
        assert_all_match(llm, n, scheme, prompts(16, seed=62))
        assert_all_match(llm, n, scheme, prompts(1, seed=63))


def test_int8_backbone(tmp_path):
    """A compressed-tensors checkpoint: int8 layers, tables as they are. Activations are rounded too, so only near."""
    n = 4
    save_tiny_checkpoint(tmp_path, n, **SHAPE)
    weights, stored = load_file(tmp_path / "model.safetensors"), {}
    for name, weight in list(weights.items()):
        stored[name] = weight
        if "proj" in name:
            scale = weight.abs().amax(1, keepdim=True) / 127
            stored[name] = (weight / scale).round().to(torch.int8)
            stored[name.replace("weight", "weight_scale")] = scale
            weights[name] = stored[name] * scale
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": INT8}))
    rounded = tiny_model(n, **SHAPE)
    rounded.load_state_dict(weights)
    oracle, cases = BruteForce(rounded), prompts(4, seed=85)
    with started(tmp_path, n, dtype="bfloat16", max_num_batched_tokens=29) as llm:
        for ids, output in zip(cases, ask(llm, cases, prompt_logprobs=0), strict=True):
            expected_TV = oracle.logits(ids).log_softmax(-1)
            for index, entry in enumerate(output.prompt_logprobs[1:]):
                token = ids[index + 1]
                assert abs(entry[token].logprob - float(expected_TV[index, token])) <= BF16_LOGITS


INT8 = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
            "input_activations": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "token",
                "dynamic": True,
            },
        }
    },
}


def test_guided_output(checkpoint):
    """The mask of a grammar is applied to the logits of tokens."""
    from vllm.sampling_params import StructuredOutputsParams

    n, tokenizer = 4, tiny_tokenizer()
    digits = {
        token: text
        for token in range(len(tokenizer))
        if (text := tokenizer.decode([token])).isascii() and text.isdigit()
    }
    with started(checkpoint(n), n, max_num_batched_tokens=29) as llm:
        cases = prompts(3, seed=81)
        for ids, output in zip(
            cases,
            ask(llm, cases, ignore_eos=False, structured_outputs=StructuredOutputsParams(regex="[0-9]{10}")),
            strict=True,
        ):
            expected, gaps = best_digits(reference(n), ids, digits, 10)
            assert_same_greedy(tokens_of(output)[: len(expected)], expected, gaps, FP32_ENGINE_LOGPROBS)
            assert output.outputs[0].text.isdigit()
            assert len(output.outputs[0].text) == 10
        words = ["yes", "no", "perhaps"]
        [output] = ask(llm, [[5, 6, 7]], ignore_eos=False, structured_outputs=StructuredOutputsParams(choice=words))
        assert output.outputs[0].text in words


SCHEMA = {
    "type": "object",
    "properties": {"digits": {"type": "string", "pattern": "^[0-9]{12}$"}},
    "required": ["digits"],
    "additionalProperties": False,
}


def test_guided_json_that_the_length_limit_cuts(checkpoint):
    """A cut answer is the beginning of the whole one and says so; the requests after it are as right as before."""
    from vllm.sampling_params import StructuredOutputsParams

    # White space is an engine's setting here: the same word in a request is not followed by vLLM 0.32.
    compact = {"backend": "xgrammar", "disable_any_whitespace": True}
    with started(checkpoint(4), 4, max_num_batched_tokens=29, structured_outputs_config=compact) as llm:

        def answer(tokens):
            grammar = StructuredOutputsParams(json=SCHEMA)
            [output] = ask(llm, [[5, 6, 7]], ignore_eos=False, max_tokens=tokens, structured_outputs=grammar)
            return output.outputs[0]

        whole = answer(100)
        assert whole.finish_reason == "stop"
        assert re.fullmatch("[0-9]{12}", json.loads(whole.text)["digits"])
        for tokens in (1, len(whole.token_ids) // 2):
            cut = answer(tokens)
            assert (cut.finish_reason, len(cut.token_ids)) == ("length", tokens)
            assert list(cut.token_ids) == list(whole.token_ids)[:tokens]
            with pytest.raises(json.JSONDecodeError):
                json.loads(cut.text)
        assert answer(100).text == whole.text


def best_digits(oracle, ids, digits, wanted):
    """Greedy over the tokens that are digits and still fit: (tokens, gaps)."""
    generated, gaps, length = [], [], 0
    while length < wanted:
        fitting = [token for token, text in digits.items() if length + len(text) <= wanted]
        logits = oracle.logits(ids + generated)[-1][fitting]
        best = logits.topk(2)
        generated.append(fitting[int(best.indices[0])])
        gaps.append(float(best.values[0] - best.values[1]))
        length += len(digits[generated[-1]])
    return generated, gaps


def test_sampling_is_reproducible(checkpoint):
    """A request with a seed gives the same text alone and in a crowd."""
    n = 2
    cases = prompts(6, seed=91)
    with started(checkpoint(n), n) as llm:
        alone = [tokens_of(ask(llm, [ids], temperature=0.8, seed=7)[0]) for ids in cases]
        together = [tokens_of(output) for output in ask(llm, cases, temperature=0.8, seed=7)]
        greedy = [tokens_of(output) for output in ask(llm, cases, max_tokens=NEW)]
    assert alone == together
    assert alone != greedy

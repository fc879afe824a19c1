"""The prompt in an answer: what stands around it goes, what is in it stays."""

from __future__ import annotations

import pytest

from engine.expansion.answer import MAX_ANSWER, Answer, NoPrompt, prompt_in
from presets.spec.values import MAX_PROMPT_BYTES

PROMPT = 'A red fox runs over snow: quick, low. The sign says "open".'


def prompt(raw: str, *, is_cut: bool = False) -> str:
    return prompt_in(Answer(raw=raw, model="tiny", is_cut=is_cut))


@pytest.mark.parametrize(
    "raw",
    [
        PROMPT,
        f"\n\n  {PROMPT}\n",
        f"<think>The user wants\n\na fox.</think>\n\n{PROMPT}",
        f"<THINK>a</think>{PROMPT}",
        f"the template began to think, and so\n</think>\n{PROMPT}",
        f"{PROMPT}<think>is that right? it never ends",
        f"<reasoning>x</reasoning><thinking>y</thinking>{PROMPT}",
        f"<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>{PROMPT}<|return|>",
        f"```\n{PROMPT}\n```",
        f"```text\n{PROMPT}\n```\n",
        f"Here is the rewritten prompt:\n\n```markdown\n{PROMPT}\n```\nTell me if you want more!",
        f"Rewritten prompt: {PROMPT}",
        f"**Rewritten Prompt:** {PROMPT}",
        f"### Expanded video prompt:\n{PROMPT}",
        f"Sure! Here's an improved version of your prompt:\n\n{PROMPT}",
        f"改写后的提示词：{PROMPT}",
        f"以下是改写后的提示词：\n{PROMPT}",
        f"“{PROMPT}”",
        f"Prompt: “{PROMPT}”",
        f"「{PROMPT}」",
        f"**{PROMPT}**",
        f"<s>{PROMPT}</s>",
        PROMPT.replace(" ", "\n"),
        PROMPT.replace('"', "&quot;"),
    ],
)
def test_what_stands_around_it_goes(raw: str) -> None:
    assert prompt(raw) == PROMPT


@pytest.mark.parametrize(
    "text",
    [
        "A cat sits. The video: long. A prompt answer follows: none.",
        '"Hello" says the sign, and below it "Goodbye"',
        "Documentary style: a cat sits on a wall.",
        "A woman is sorry that she can't dance, and cries.",
        "I can see a man who thinks: I cannot.",
        "一只猫安静地坐在墙上。",
        "A page with ```code``` on it.",
    ],
)
def test_what_is_in_it_stays(text: str) -> None:
    assert prompt(text) == text


@pytest.mark.parametrize(
    "raw", ["", "  \n", "<think>only thoughts</think>", '""', "```\n```", "..."]
)
def test_nothing_is_no_prompt(raw: str) -> None:
    with pytest.raises(
        NoPrompt, match=r"components\.prompt_expander: tiny wrote no prompt: .*empty"
    ):
        prompt(raw)


def test_of_an_answer_that_ended_before_the_prompt_it_is_said_what_to_change() -> None:
    with pytest.raises(NoPrompt, match=r"raise expansion\.max_tokens"):
        prompt("<think>and so on, and", is_cut=True)


@pytest.mark.parametrize(
    "raw",
    [
        "I'm sorry, but I can't assist with that.",
        "I’m very sorry, I am not able to do that.",
        "Sorry, I cannot create this.",
        "I cannot help with this request.",
        "As an AI language model I have no pictures.",
        "抱歉，我不能协助完成这个请求。",
        "对不起，我无法提供。",
        "我无法满足这个要求",
    ],
)
def test_a_refusal_is_told_as_one(raw: str) -> None:
    with pytest.raises(NoPrompt, match="refuses"):
        prompt(raw)


def test_too_much_is_refused_whole() -> None:
    with pytest.raises(NoPrompt, match="a prompt has at most"):
        prompt("word " * (MAX_PROMPT_BYTES // 4))
    with pytest.raises(NoPrompt, match="more than"):
        prompt("a" * (MAX_ANSWER + 1))

"""What a language model is asked and answers, and the prompt that is in its answer. Torch-free."""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec
from msgspec import Struct

from engine.errors import ComponentError
from engine.prompt import clean_prompt
from presets.spec.values import MAX_PROMPT_BYTES

KEY = "components.prompt_expander"

MAX_ANSWER = 512 * 1024
"""Characters, with reasoning."""

# without it; more than a prompt may have, so that too much is told as that
_MAX_READ = 64 * 1024


@dataclass(frozen=True)
class Asked:
    """instructions: the system message. prompt: that of the user, cleaned. Pictures are to join them here, for those
    who can see. max_tokens: of the answer, its reasoning included."""

    instructions: str
    prompt: str
    temperature: float
    top_p: float
    max_tokens: int
    seed: int

    @property
    def messages(self) -> list[dict[str, str]]:
        return [
            {"role": "system", "content": self.instructions},
            {"role": "user", "content": self.prompt},
        ]


class Answer(Struct, frozen=True, kw_only=True):
    """raw: all that came, as it came, but for reasoning that the server tells apart. model: as it calls itself.
    is_cut: whether it ends because it may be no longer."""

    raw: str
    model: str
    is_cut: bool = False


class Record(Answer, frozen=True, kw_only=True):
    """An answer as it is stored, as JSON. provider: of the component; asked_model, template: as the run names them."""

    provider: str
    asked_model: str
    template: str
    seed: int
    temperature: float
    top_p: float


class NoPrompt(ComponentError):
    """An answer that no prompt can be taken from."""


def encode_record(record: Record) -> bytes:
    return msgspec.json.encode(record, order="sorted")


def decode_record(data: bytes | bytearray) -> Record:
    """Raises ValueError for other bytes."""
    return msgspec.json.decode(data, type=Record)


def prompt_in(answer: Answer) -> str:
    """The prompt that an answer holds: without reasoning, fences, headings and quotes around it, cleaned as every
    prompt is. Raises NoPrompt where nothing is left, or the model said that it will not."""
    if len(answer.raw) > MAX_ANSWER:
        raise NoPrompt(f"{answer.model} wrote more than {MAX_ANSWER:,} characters", key=KEY)
    text = _without_reasoning(answer.raw)[:_MAX_READ]
    for _ in range(4):
        before = text
        text = _unwrapped(text.strip())
        if text == before:
            break
    text = clean_prompt(text)
    if not any(character.isalnum() for character in text):
        why = (
            "its answer ended before it came to the prompt; raise expansion.max_tokens, or take a model that "
            "reasons less"
            if answer.is_cut
            else "its answer is empty"
        )
        raise NoPrompt(f"{answer.model} wrote no prompt: {why}", key=KEY)
    if _REFUSAL.match(text):
        shown = text if len(text) <= 200 else text[:200] + "..."
        raise NoPrompt(f"{answer.model} refuses: {shown}", key=KEY)
    if len(text.encode()) > MAX_PROMPT_BYTES:
        raise NoPrompt(
            f"{answer.model} wrote {len(text.encode()):,} bytes, a prompt has at most {MAX_PROMPT_BYTES:,}",
            key=KEY,
        )
    return text


_TAGS = "think|thinking|thought|reasoning|reflection"
_REASONING = re.compile(rf"<({_TAGS})>.*?(</\1>|\Z)", re.DOTALL | re.IGNORECASE)
# the beginning tag may have been part of what the model was given
_REASONING_END = re.compile(rf"\A.*</({_TAGS})>", re.DOTALL | re.IGNORECASE)
_FINAL_CHANNEL = re.compile(r"\A.*<\|channel\|>\s*final\s*<\|message\|>", re.DOTALL)
_SPECIAL = re.compile(r"<\|[A-Za-z_]{1,32}\|>|</?s>")
_FENCE = re.compile(
    r"(?:\A|\n)[ \t]*(```+|~~~+)[^\n`]*\n(.*?)\n?[ \t]*\1[ \t]*(?:\n|\Z)", re.DOTALL
)
_HEADING = re.compile(
    r"""\A[#*_>\s]*
    (?:
        (?:sure|certainly|okay|ok|of\ course|absolutely)[,.!]?\s+(?=here)
    )?
    (?:
        here(?:\s+is|['’]s|\s+are)?[^\n:：]{0,80}\b(?:prompt|version|description|rewrite)s?\b[^\n:：]{0,40}
      | (?:the\s+|your\s+|my\s+)?
        (?:(?:re-?written|expanded|enhanced|improved|revised|refined|extended|optimi[sz]ed|final|new|english|chinese)\s+)*
        (?:(?:text[- ]to[- ])?video\s+)?(?:prompt|description|version|output|rewrite)
      | (?:以下是|这是)?[^\n:：]{0,12}(?:提示词|改写|扩写|描述)(?:结果|后)?
    )
    [*_\s]*[:：][*_\s]*""",
    re.IGNORECASE | re.VERBOSE,
)
_QUOTES = {
    '"': '"',
    "'": "'",
    "“": "”",
    "‘": "’",
    "«": "»",
    "「": "」",
    "『": "』",
    "`": "`",
    "**": "**",
}
_CANNOT = r"(?:can['’]?t|cannot|can\ not|won['’]?t|(?:am\ |are\ )?(?:unable|not\ able)\ to)"
_REFUSAL = re.compile(
    rf"""
        (?:(?:i['’]?m|i\ am|we['’]?re)\s+)?(?:very\s+)?(?:sorry|afraid)\b[^.]{{0,40}}\b{_CANNOT}
      | i\ {_CANNOT}\s+(?:help|assist|comply|create|generate|fulfil|provide|write|rewrite|do|process|support|expand)\b
      | as\ an\ ai\b
      | (?:很|非常)?(?:抱歉|对不起)[，,。!！\s]*我?[^。]{{0,12}}(?:不能|无法|没有办法)
      | 我(?:不能|无法)(?:协助|帮助|提供|满足|生成|改写|处理)
    """,
    re.IGNORECASE | re.VERBOSE,
)


def _without_reasoning(text: str) -> str:
    text = _FINAL_CHANNEL.sub("", text)
    text = _REASONING.sub("", text)
    text = _REASONING_END.sub("", text)
    return _SPECIAL.sub("", text)


def _unwrapped(text: str) -> str:
    """Without one layer of what stands around the prompt."""
    fences = _FENCE.findall(text)
    if len(fences) == 1:
        return str(fences[0][1])
    text = _HEADING.sub("", text, count=1)
    for begin, end in _QUOTES.items():
        inner = text[len(begin) : len(text) - len(end)]
        is_wrapped = len(text) > len(begin + end) and text.startswith(begin) and text.endswith(end)
        if is_wrapped and begin not in inner and end not in inner:
            return inner
    return text

"""Prompt expansion by a language model of this machine, in the engine: a folder as Transformers saves one, with safe
weights and a chat template. Torch comes in with `load`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from engine.checkpoints.digests import fingerprint_of
from engine.checkpoints.formats.reading import facts_at
from engine.checkpoints.places import models_folder
from engine.components.memory.holding import BYTES
from engine.components.protocols import Description
from engine.errors import CheckpointError, ComponentError
from engine.expansion.answer import KEY, Answer, Asked
from presets.spec.components import PromptExpanderSpec
from store.keys import canonical

if TYPE_CHECKING:
    import torch

    from engine.reports import Control
    from store.index.index import Index

# Beside JSON and weights: what a tokenizer and a chat template may lie in.
_TEXTS = ("*.jinja", "merges.txt", "vocab.txt", "*.model")


def describe(spec: PromptExpanderSpec, index: Index) -> Description:
    """By its files. Raises CheckpointError for a folder that is no such model, ComponentError."""
    if spec.options or spec.url or spec.api_key_env:
        raise ComponentError(
            "transformers runs in the engine and takes no url, key or options; remove them, or set the name to openai",
            key=KEY,
        )
    folder = _folder(spec)
    weights, described, texts = _files(folder)
    files = [*weights, *described, *texts]
    digest = hashlib.sha256()
    for path in texts:
        digest.update(f"{path.name}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    held = {"files": [[*facts_at(path)] for path in files], "dtype": spec.dtype}
    return Description(
        identity={
            "name": spec.name,
            "dtype": spec.dtype,
            "weights": fingerprint_of(index, [*weights, *described]),
            "texts": digest.hexdigest(),
        },
        facts={},
        resident=canonical({"name": spec.name, **held}).decode(),
        # as if they were of two bytes a number, which is how nearly all are published
        num_bytes=sum(path.stat().st_size for path in weights) * BYTES[spec.dtype] // 2,
        files=tuple(files),
    )


def settle(spec: PromptExpanderSpec, scan: Callable[[], Any]) -> PromptExpanderSpec:
    """With an absolute path. Raises CheckpointError."""
    return msgspec.structs.replace(spec, checkpoint=str(_folder(spec).absolute()))


def load(spec: PromptExpanderSpec, about: Description) -> LocalChat:
    """Raises CheckpointError for files that cannot be used, ComponentError for a model that is not told how to chat."""
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from engine.dtypes import torch_device, torch_dtype

    folder = _folder(spec)
    is_old = tuple(map(int, transformers.__version__.split(".")[:2])) < (4, 56)
    try:
        # no code of the folder is run, no file is asked for elsewhere, and nothing is unpickled
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            **{"torch_dtype" if is_old else "dtype": torch_dtype(spec.dtype)},
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
        reason = " ".join(str(error).split())[:400]
        raise CheckpointError(
            f"{folder} cannot be used as a language model: {reason}", key=f"{KEY}.checkpoint"
        ) from None
    if not getattr(tokenizer, "chat_template", None):
        raise ComponentError(
            f"{folder} has no chat template; take a model that is made to follow instructions",
            key=f"{KEY}.checkpoint",
        )
    device = torch_device(spec.device)
    return LocalChat(model.to(device).eval(), tokenizer, device, folder.name)


@dataclass(frozen=True)
class LocalChat:
    model: Any
    tokenizer: Any
    device: torch.device
    name: str
    control: Control | None = None

    def watched(self, control: Control) -> LocalChat:
        """The same, for one run: it gives up where that is asked to stop."""
        return replace(self, control=control)

    def expand(self, asked: Asked) -> Answer:
        """As of `PromptExpander`."""
        import torch

        given = self._given(asked)
        length = given["input_ids"].shape[1]
        limit = (
            getattr(self.model.config, "max_position_embeddings", None) or length + asked.max_tokens
        )
        room = min(asked.max_tokens, limit - length)
        if room < 1:
            raise ComponentError(
                f"the prompt and its instructions have {length} tokens, {self.name} reads {limit}",
                key=KEY,
            )
        sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None}
        if asked.temperature:
            sampling = {
                "do_sample": True,
                "temperature": asked.temperature,
                "top_p": asked.top_p,
            }
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.inference_mode():
            torch.manual_seed(asked.seed)
            tokens = self.model.generate(
                **given,
                **sampling,
                top_k=None,
                max_new_tokens=room,
                stopping_criteria=[self._stops],
                pad_token_id=self._padding(),
            )[0, length:]
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return Answer(
            raw=text, model=self.name, is_cut=len(tokens) == room and not self._ends(tokens)
        )

    def _given(self, asked: Asked) -> dict[str, torch.Tensor]:
        from jinja2 import TemplateError

        messages = asked.messages
        try:
            found = self._templated(messages)
        except TemplateError:
            # some know no system
            told = "\n\n".join(message["content"] for message in messages)
            try:
                found = self._templated([{"role": "user", "content": told}])
            except TemplateError as error:
                raise ComponentError(
                    f"the chat template of {self.name} takes no prompt: {error}", key=KEY
                ) from None
        return {name: tensor.to(self.device) for name, tensor in found.items()}

    def _templated(self, messages: list[dict[str, str]]) -> Any:
        return self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )

    def _stops(self, tokens: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        import torch

        if self.control is not None:
            self.control.check()
        return torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)

    def _padding(self) -> int | None:
        padding = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if padding is None else padding

    def _ends(self, tokens: torch.Tensor) -> bool:
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        return len(tokens) > 0 and int(tokens[-1]) in ends


def _folder(spec: PromptExpanderSpec) -> Path:
    if not spec.checkpoint:
        raise CheckpointError(
            "is empty; name the folder of a language model as Transformers saves one",
            key=f"{KEY}.checkpoint",
        )
    try:
        folder = models_folder() / Path(spec.checkpoint).expanduser()
    except RuntimeError as error:
        raise CheckpointError(f"{spec.checkpoint}: {error}", key=f"{KEY}.checkpoint") from None
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} is no folder with a config.json; download one as Transformers saves it, and name that folder",
            key=f"{KEY}.checkpoint",
        )
    return folder


def _files(folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Weights, JSON and texts."""
    try:
        weights = sorted(folder.glob("*.safetensors"))
        described = sorted(folder.glob("*.json"))
        texts = sorted({path for pattern in _TEXTS for path in folder.glob(pattern)})
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be read ({error.strerror or error})", key=f"{KEY}.checkpoint"
        ) from None
    if not weights:
        raise CheckpointError(
            f"{folder} has no weights in safetensors; others are not read", key=f"{KEY}.checkpoint"
        )
    return weights, described, texts

"""How text becomes tokens and when generation ends, from the files that transformers saves.

The chat template is `chat_template.jinja`, or stands in tokenizer_config.json; what ends a
generation is what generation_config.json lists and the tokenizer's own end token.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mesh.errors import FailedPrecondition
from services.inference.llm.architecture import SamplingDefaults, TextRules
from services.inference.llm.transformers_config import CONFIG, read_json

_TOKENIZER = "tokenizer.json"
_TEMPLATE = "chat_template.jinja"
_DEFAULT_TEMPLATE = "default"


def read_tokenizer(folder: Path) -> Tokenizer:
    """The folder's tokenizer, which cuts nothing off and fills nothing up."""
    path = folder / _TOKENIZER
    if not path.exists():
        raise FailedPrecondition(
            f"the artefact has no {_TOKENIZER}; a fast tokenizer's save_pretrained writes it"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more precise
        raise FailedPrecondition(f"{_TOKENIZER} cannot be read: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def read_text_rules(folder: Path, tokenizer: Tokenizer) -> TextRules:
    """Special tokens, chat template and sampling defaults."""
    said = read_json(folder, "tokenizer_config.json")
    special = {**read_json(folder, "special_tokens_map.json"), **said}
    bos, eos = _token(special.get("bos_token")), _token(special.get("eos_token"))
    bos_id = tokenizer.token_to_id(bos) if bos else None
    # Whether text begins with it is the business of the tokenizer's post-processor.
    begun = tokenizer.encode("").ids
    generation = read_json(folder, "generation_config.json")
    listed = generation.get("eos_token_id", read_json(folder, CONFIG).get("eos_token_id"))
    own = tokenizer.token_to_id(eos) if eos else None
    return TextRules(
        bos_token=bos,
        eos_token=eos,
        bos_id=bos_id,
        add_bos=bos_id is not None and begun[:1] == [bos_id],
        end_ids=frozenset(_ids(listed) | _ids(own)),
        chat_template=_chat_template(folder, said),
        sampling=_sampling(generation),
    )


def _token(said: Any) -> str:
    """A token is a string, or an object that has its text."""
    if isinstance(said, Mapping):
        said = said.get("content")
    return said if isinstance(said, str) else ""


def _ids(said: Any) -> set[int]:
    found = said if isinstance(said, list) else [said]
    return {each for each in found if isinstance(each, int)}


def _chat_template(folder: Path, said: Mapping[str, Any]) -> str | None:
    path = folder / _TEMPLATE
    if path.exists():
        return path.read_text()
    template = said.get("chat_template")
    if isinstance(template, list):
        named = {each.get("name"): each.get("template") for each in template}
        template = named.get(_DEFAULT_TEMPLATE)
    return template if isinstance(template, str) else None


def _sampling(generation: Mapping[str, Any]) -> SamplingDefaults:
    plain = SamplingDefaults()

    def number(key: str, default: float) -> float:
        value = generation.get(key)
        return default if value is None else float(value)

    return SamplingDefaults(
        temperature=number("temperature", plain.temperature),
        top_p=number("top_p", plain.top_p),
        top_k=int(number("top_k", plain.top_k)),
        min_p=number("min_p", plain.min_p),
        repetition_penalty=number("repetition_penalty", plain.repetition_penalty),
    )

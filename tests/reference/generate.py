"""Makes the golden data of this folder with the reference implementation of both demo models.

The language model runs in transformers on the dequantised GGUF in float32 with greedy decoding;
the encoder runs in transformers with mean pooling, L2 normalisation and the truncation of its own
sentence-transformers configuration. The project itself needs neither torch nor transformers, so
this script lives in an environment of its own:

    python -m venv reference-env
    reference-env/bin/pip install torch==2.13.0 transformers==5.23.0 accelerate gguf
    reference-env/bin/python tests/reference/generate.py --gguf <model.gguf> --minilm <folder>

It refuses a prompt on which the two likeliest tokens come closer than float32 arithmetic can hold
apart on another engine: such a prompt would test luck.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from texts import CONVERSATIONS, PERPLEXITY_TEXT, PROMPTS, SENTENCES, TOKENIZER_TEXTS
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).parent
NEW_TOKENS = 48
# Ten times the largest difference between the logits of two float32 engines (7e-5 was seen).
SMALLEST_MARGIN = 7e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--minilm", type=Path, required=True)
    options = parser.parse_args()
    write_encoder(options.minilm)
    write_language_model(options.gguf)


def write_language_model(gguf: Path) -> None:
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32).eval()
    golden = {
        "generations": [generate(model, tokenizer, prompt) for prompt in PROMPTS],
        "perplexity": perplexity(model, tokenizer),
        "tokenizer": [{"text": t, "ids": tokenizer(t)["input_ids"]} for t in TOKENIZER_TEXTS],
        "chat_template": [render(tokenizer, conversation) for conversation in CONVERSATIONS],
    }
    for generation in golden["generations"]:
        if generation["margin"] < SMALLEST_MARGIN:
            raise SystemExit(f"choose another prompt, two tokens are too close: {generation}")
    (HERE / "smollm2.json").write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")


def render(tokenizer: Any, conversation: list[dict[str, str]]) -> dict[str, Any]:
    text = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    return {"messages": conversation, "text": text}


def prompt_ids(tokenizer: Any, prompt: dict[str, Any]) -> list[int]:
    text = prompt.get("text") or render(tokenizer, prompt["chat"])["text"]
    ids: list[int] = tokenizer(text)["input_ids"]
    return ids


def generate(model: Any, tokenizer: Any, prompt: dict[str, Any]) -> dict[str, Any]:
    ids = prompt_ids(tokenizer, prompt)
    with torch.no_grad():
        out = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    top = torch.stack(out.logits).squeeze(1).topk(2).values
    margin = float((top[:, 0] - top[:, 1]).min())
    new = out.sequences[0].tolist()[len(ids) :]
    text = tokenizer.decode(new, skip_special_tokens=True)
    return {**prompt, "prompt_ids": ids, "greedy_ids": new, "greedy_text": text, "margin": margin}


def perplexity(model: Any, tokenizer: Any) -> dict[str, Any]:
    ids = torch.tensor([tokenizer(PERPLEXITY_TEXT)["input_ids"]])
    with torch.no_grad():
        loss = float(model(ids, labels=ids).loss)
    return {"text": PERPLEXITY_TEXT, "tokens": ids.shape[1], "fp32": math.exp(loss)}


def write_encoder(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    limit = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
    vectors = [embed(model, tokenizer, sentence, limit) for sentence in SENTENCES]
    (HERE / "minilm.json").write_text(
        json.dumps({"sentences": SENTENCES}, ensure_ascii=False, indent=1) + "\n"
    )
    np.savez_compressed(HERE / "minilm.npz", embeddings=np.stack(vectors))


def embed(model: Any, tokenizer: Any, sentence: str, limit: int) -> np.ndarray:
    # One at a time: padding must not be able to change a golden vector.
    inputs = tokenizer(sentence, truncation=True, max_length=limit, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1).float()
    pooled = (hidden * mask).sum(1) / mask.sum(1)
    vector: np.ndarray = torch.nn.functional.normalize(pooled)[0].numpy().astype(np.float32)
    return vector


if __name__ == "__main__":
    main()

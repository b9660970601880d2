"""Makes `classifiers.json`: what transformers makes of the texts with the encoders of this folder.

Run it in the environment that `generate.py` describes:

    reference-env/bin/python tests/reference/generate_classifiers.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from tiny_encoders import ENCODERS, TEXTS, TOKENS, TinyEncoder, write_encoder
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
    TextClassificationPipeline,
)

HERE = Path(__file__).parent


def main() -> None:
    golden = {name: reference(encoder) for name, encoder in ENCODERS.items()}
    (HERE / "classifiers.json").write_text(json.dumps(golden, indent=1) + "\n")


def reference(encoder: TinyEncoder) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        folder = write_encoder(Path(place), encoder)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(folder / "tokenizer.json"),
            model_max_length=TOKENS,
            model_input_names=["input_ids", "attention_mask"],
        )
        classifier = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        bare = AutoModel.from_pretrained(folder).eval()
        return {
            "scores": [scores(classifier, tokenizer, text) for text in TEXTS],
            "embeddings": [embed(bare, tokenizer, text) for text in TEXTS],
        }


def scores(classifier: Any, tokenizer: Any, text: str) -> list[float]:
    """The scores of all labels, in their order; each text by itself."""
    pipeline = TextClassificationPipeline(model=classifier, tokenizer=tokenizer)
    found = pipeline(text, top_k=None, truncation=True)
    by_label = {each["label"]: each["score"] for each in found}
    return [round(by_label[label], 8) for _, label in sorted(classifier.config.id2label.items())]


def embed(bare: Any, tokenizer: Any, text: str) -> list[float]:
    inputs = tokenizer(text, truncation=True, return_tensors="pt")
    with torch.no_grad():
        hidden = bare(**inputs).last_hidden_state[0]
    return [round(value, 6) for value in hidden.mean(0).tolist()]


if __name__ == "__main__":
    main()

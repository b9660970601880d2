"""Makes `tiny_decoders.npz`: what transformers answers for the decoders of `tiny_decoders`.

    reference-env/bin/python tests/reference/generate_decoders.py

in the environment that `generate.py` describes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from tiny_decoders import CONFIGS, NEW_TOKENS, PREFIXES, PROMPT, write_folder
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
SMALLEST_MARGIN = 1e-3


def main() -> None:
    golden: dict[str, np.ndarray] = {}
    for kind in CONFIGS:
        with tempfile.TemporaryDirectory() as folder:
            write_folder(kind, Path(folder))
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        with torch.inference_mode():
            logits = model(torch.tensor([PROMPT])).logits[0]
            golden[f"{kind}.logits"] = logits[[n - 1 for n in PREFIXES]].numpy()
            golden[f"{kind}.greedy"] = np.array(greedy(kind, model))
    np.savez_compressed(HERE / "tiny_decoders.npz", **golden)


def greedy(kind: str, model: torch.nn.Module) -> list[int]:
    ids = list(PROMPT)
    for _ in range(NEW_TOKENS):
        best = model(torch.tensor([ids])).logits[0, -1].topk(2)
        if float(best.values[0] - best.values[1]) < SMALLEST_MARGIN:
            raise SystemExit(f"{kind}: two tokens are too close")
        ids.append(int(best.indices[0]))
    return ids[len(PROMPT) :]


if __name__ == "__main__":
    main()

"""Makes onnxruntime-genai's int8 folder of a GGUF file: `python ... model.gguf work target`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

gguf, work, target = map(Path, sys.argv[1:])
place = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
model = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
# A model that came from GGUF will not be saved as it is.
weights, config = model.state_dict(), model.config
del config.quantization_config
plain = type(model)(config)
plain.load_state_dict(weights)
plain.tie_weights()
plain.save_pretrained(work)
AutoTokenizer.from_pretrained(**place).save_pretrained(work)
builder = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
arguments = ["-i", work, "-o", target, "-p", "int8", "-e", "cpu", "-c", work / "cache"]
subprocess.run([*builder, *arguments], check=True)  # noqa: S603 - our own arguments

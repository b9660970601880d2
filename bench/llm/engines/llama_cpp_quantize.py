"""Rounds a GGUF file to Q8_0 with llama.cpp: `python llama_cpp_quantize.py from.gguf to.gguf`."""

from __future__ import annotations

import sys

import llama_cpp

parameters = llama_cpp.llama_model_quantize_default_params()
parameters.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0
parameters.allow_requantize = True
source, target = (path.encode() for path in sys.argv[1:])
sys.exit(llama_cpp.llama_model_quantize(source, target, parameters))

"""Language models: from a GGUF file to token streams out of KV slots."""

"""The front of the mesh: Open Inference Protocol and OpenAI REST in, calls to nodes out.

It chooses the model version, derives the affinity key and translates; which node answers is Envoy's
choice, and what the answer is the node's.
"""

"""Inference: one pass of a GGUF through llama.cpp that gives a state vector and then text.

Knows token ids, sequences and KV cache. Knows nothing of heads, NPCs, worlds or HTTP.
"""

"""A small random encoder in the shape of the packaged one."""

import numpy as np

from export.packaged_encoder import Array, EncoderWeights

DIM, WIDTH, LAYERS, HEADS, MAX_TOKENS = 16, 32, 2, 4, 48
PIECES = [
    "<s>",
    "<pad>",
    "</s>",
    "<unk>",
    "▁",
    *"abcdefghijklmnopqrstuvwxyz?!.:가나다라",
    "▁the",
    "й",
]


def tiny_encoder(seed: int = 0) -> EncoderWeights:
    """Random weights; a vocabulary of letters, one piece of another script at the end."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Array:
        return rng.normal(0, 0.3, shape).astype(np.float32)

    tensors = {
        "embeddings.word_embeddings.weight": draw(len(PIECES), DIM),
        "embeddings.position_embeddings.weight": draw(MAX_TOKENS, DIM),
        "embeddings.token_type_embeddings.weight": draw(2, DIM),
        "embeddings.LayerNorm.weight": 1 + draw(DIM),
        "embeddings.LayerNorm.bias": draw(DIM),
    }
    for layer in range(LAYERS):
        shapes = {
            "attention.self.query": (DIM, DIM),
            "attention.self.key": (DIM, DIM),
            "attention.self.value": (DIM, DIM),
            "attention.output.dense": (DIM, DIM),
            "intermediate.dense": (WIDTH, DIM),
            "output.dense": (DIM, WIDTH),
        }
        for name, shape in shapes.items():
            tensors[f"encoder.layer.{layer}.{name}.weight"] = draw(*shape)
            tensors[f"encoder.layer.{layer}.{name}.bias"] = draw(shape[0])
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            tensors[f"encoder.layer.{layer}.{name}.weight"] = 1 + draw(DIM)
            tensors[f"encoder.layer.{layer}.{name}.bias"] = draw(DIM)
    pieces = [(piece, -float(rank)) for rank, piece in enumerate(PIECES)]
    return EncoderWeights(LAYERS, HEADS, MAX_TOKENS, 1e-12, tensors, pieces)

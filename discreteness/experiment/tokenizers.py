"""anybody's tokenizer -> one that says the ids of a text, the bytes of an id, and which tokenizer it is.

`adapted(AutoTokenizer.from_pretrained("EleutherAI/pythia-70m"))`, and so for a `tokenizers.Tokenizer`, a
`tiktoken.Encoding`, or "gpt2", the speedrun's own. None of their libraries is imported before one is given.

- What stands in a text is text: `<|endoftext|>` in a file is not the token of that name.
- Padding, truncation and state of a given tokenizer decide nothing here, and are left as they are.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from speedrun.data import tokenizer as speedruns

WAYS = (
    "give a tokenizer of transformers (slow or fast), a tokenizers.Tokenizer, a tiktoken.Encoding, "
    'or "gpt2" for the one of the speedrun'
)
SPACE = "▁"
"""U+2581, which SentencePiece writes for a space."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a tokenizer is made of, in bytes: two libraries that hold the same vocabulary give equal ones."""

    tokens: dict[int, bytes]
    """Bytes of every id; of a special token its name in UTF-8."""
    merged: Sequence[bytes]
    """What each merge of a byte-pair encoding makes, in the order of their ranks; none for other kinds."""
    special: dict[int, str]


class Tokenizer:
    """Any tokenizer, seen alike. Made by `adapted`."""

    def __init__(
        self,
        text_ids: Callable[[str], Sequence[int]],
        content: Callable[[], Content],
        own_prefix: Sequence[int],
        bos_id: int | None,
    ):
        """text_ids: ids of a text without special tokens. own_prefix: what the tokenizer itself puts before a text."""
        self._text_ids = text_ids
        self._make_content = content
        self.own_prefix = tuple(own_prefix)
        self.bos_id = bos_id

    def encode(self, text: str, bos: bool | int | None = None) -> tuple[int, ...]:
        """Ids of a text, after what `bos` asks for: None is what the tokenizer itself puts there, True its BOS, False
        nothing, a number the token of that id. What a tokenizer would put behind a text (EOS) is left out.

        Raises ValueError if there is no such token.
        """
        return (*self.prefix(bos), *self._text_ids(text))

    def prefix(self, bos: bool | int | None = None) -> tuple[int, ...]:
        """What `encode` puts before every text."""
        if bos is None:
            return self.own_prefix
        if bos is False:
            return ()
        if bos is True:
            if self.bos_id is None:
                raise ValueError("bos=True, but the tokenizer has no BOS token: give the id of one, or leave bos out")
            return (self.bos_id,)
        self.token_bytes(bos)
        return (bos,)

    def token_bytes(self, token_id: int) -> bytes:
        """Exact bytes of one id, of which a character may take several; of a special token its name. SentencePiece's
        `▁` is a space, its `<0x0A>` one byte. Raises ValueError if there is no such id."""
        try:
            return self.content.tokens[token_id]
        except KeyError:
            raise ValueError(f"the tokenizer has no token of id {token_id}") from None

    @functools.cached_property
    def content(self) -> Content:
        return self._make_content()

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of vocabulary, results of merges, and special tokens. Equal for the same tokenizer in
        another library, as far as that library says of what it is made. How it cuts a text before merging is not in
        it, nor are scores of a unigram model: the ids of documents, which every dataset keeps, show those."""
        sha = hashlib.sha256()
        for token_id, content in sorted(self.content.tokens.items()):
            sha.update(f"{token_id} {content.hex()}\n".encode())
        for content in self.content.merged:
            sha.update(f"merged {content.hex()}\n".encode())
        for token_id, name in sorted(self.content.special.items()):
            sha.update(f"special {token_id} {name!r}\n".encode())
        return sha.hexdigest()


def adapted(tokenizer: Any) -> Tokenizer:
    """A tokenizer of `transformers`, `tokenizers` or `tiktoken`, or "gpt2" (or the module) for the speedrun's, whose
    BOS is part of every text. Raises TypeError if it is none of these."""
    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    if tokenizer == "gpt2" or (isinstance(tokenizer, ModuleType) and tokenizer is speedruns):
        return speedruns_gpt2()
    libraries = {base.__module__.partition(".")[0] for base in type(tokenizer).__mro__}
    if "tiktoken" in libraries:
        return _of_tiktoken(tokenizer)
    if "tokenizers" in libraries and hasattr(tokenizer, "to_str"):
        return _of_tokenizers(tokenizer, None)
    if "transformers" in libraries and hasattr(tokenizer, "convert_ids_to_tokens"):
        backend = getattr(tokenizer, "backend_tokenizer", None)
        bos_id = tokenizer.bos_token_id
        return _of_slow(tokenizer, bos_id) if backend is None else _of_tokenizers(backend, bos_id)
    raise TypeError(f"{tokenizer!r:.200} is not a tokenizer that is known here: {WAYS}")


@functools.cache
def speedruns_gpt2() -> Tokenizer:
    """That of the speedrun, which puts BOS before every text."""

    def content() -> Content:
        ranks = speedruns.read_vocabulary(speedruns.VOCABULARY_PATH)
        return _of_ranks(ranks, {speedruns.decode_bytes(speedruns.BOS).decode(): speedruns.BOS})

    return Tokenizer(speedruns.encode, content, (speedruns.BOS,), speedruns.BOS)


def _of_tiktoken(encoding: Any) -> Tokenizer:
    special = {name: encoding.encode_single_token(name) for name in encoding.special_tokens_set}

    def content() -> Content:
        return _of_ranks({one: encoding.encode_single_token(one) for one in encoding.token_byte_values()}, special)

    return Tokenizer(encoding.encode_ordinary, content, (), special.get("<|endoftext|>"))


def _of_ranks(ranks: dict[bytes, int], special: dict[str, int]) -> Content:
    """Of tiktoken's format, whose ids are the ranks of merges."""
    tokens = {rank: content for content, rank in ranks.items()}
    merged = [tokens[rank] for rank in sorted(tokens) if len(tokens[rank]) > 1]
    names = {token_id: name for name, token_id in special.items()}
    return Content(tokens=tokens | {i: name.encode() for i, name in names.items()}, merged=merged, special=names)


def _of_tokenizers(tokenizer: Any, bos_id: int | None) -> Tokenizer:
    own = type(tokenizer).from_str(tokenizer.to_str())  # a copy, whose settings may be changed
    own.no_padding()
    own.no_truncation()
    own.encode_special_tokens = True  # their names in a text are text
    prefix = _before(own.encode("a", add_special_tokens=True).ids, own.encode("a", add_special_tokens=False).ids)
    if bos_id is None and prefix:
        bos_id = prefix[0]

    def content() -> Content:
        described = json.loads(own.to_str())
        parts = set(_types(described["pre_tokenizer"])) | set(_types(described["decoder"]))
        byte_fallback = described["model"].get("byte_fallback", False) or "ByteFallback" in parts
        in_bytes = _reading(byte_level="ByteLevel" in parts, byte_fallback=byte_fallback)
        added = own.get_added_tokens_decoder()
        tokens = {i: in_bytes(token) for token, i in own.get_vocab(with_added_tokens=False).items()}
        pairs = (pair if isinstance(pair, list) else pair.split(" ") for pair in described["model"].get("merges", ()))
        return Content(
            tokens=tokens | {i: token.content.encode() for i, token in added.items()},
            merged=list(dict.fromkeys(in_bytes("".join(pair)) for pair in pairs)),
            special={i: token.content for i, token in added.items() if token.special},
        )

    return Tokenizer(lambda text: own.encode(text, add_special_tokens=False).ids, content, prefix, bos_id)


def _of_slow(tokenizer: Any, bos_id: int | None) -> Tokenizer:
    """Of `transformers`, in Python: SentencePiece, characters, bytes."""

    def ids(text: str, special: bool = False) -> list[int]:
        given = tokenizer(text, add_special_tokens=special, split_special_tokens=True, verbose=False)
        return given["input_ids"]

    prefix = _before(ids("a", special=True), ids("a"))

    def content() -> Content:
        in_bytes = _reading(byte_level=hasattr(tokenizer, "byte_decoder"), byte_fallback=hasattr(tokenizer, "sp_model"))
        added = tokenizer.added_tokens_decoder
        return Content(
            tokens={i: in_bytes(token) for token, i in tokenizer.get_vocab().items()}
            | {i: token.content.encode() for i, token in added.items()},
            merged=[],
            special={i: token.content for i, token in added.items() if token.special},
        )

    return Tokenizer(ids, content, prefix, prefix[0] if bos_id is None and prefix else bos_id)


def _before(whole: Sequence[int], text: Sequence[int]) -> Sequence[int]:
    """What stands before the ids of a text where a tokenizer has added special tokens around them."""
    places = range(len(whole) - len(text) + 1)
    return whole[: next(place for place in places if list(whole[place : place + len(text)]) == list(text))]


def _types(part: Any) -> Iterator[str]:
    """Names of a pre-tokenizer or decoder and of those it is composed of."""
    if isinstance(part, dict):
        yield part.get("type", "")
        for value in part.values():
            yield from _types(value)
    elif isinstance(part, list):
        for value in part:
            yield from _types(value)


def _reading(*, byte_level: bool, byte_fallback: bool) -> Callable[[str], bytes]:
    """How a token's name in the vocabulary spells its bytes."""
    if byte_level:
        alphabet = byte_of_character()
        return lambda token: bytes(alphabet[c] for c in token) if alphabet.keys() >= set(token) else token.encode()
    one_byte = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)} if byte_fallback else {}
    return lambda token: one_byte.get(token, token.replace(SPACE, " ").encode())


def byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet of bytes (github.com/openai/gpt-2, encoder.py): a byte that prints in Latin-1 is written as that
    character, the others in their order as the characters from U+0100 on."""
    prints = {*range(0x21, 0x7F), *range(0xA1, 0x100)} - {0xAD}
    others = [byte for byte in range(256) if byte not in prints]
    return {chr(byte): byte for byte in prints} | {chr(0x100 + place): byte for place, byte in enumerate(others)}

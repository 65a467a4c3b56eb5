"""Tokenizers: text to token ids and back, and the supported chat template (ChatML)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.decoders import DecodeStream
from tokenizers.models import BPE

from pimspec.errors import ParameterError, UnknownNameError

__all__ = ["END_OF_TURN", "TURN", "TextStream", "TextTokenizer", "byte_level_tokenizer"]

TURN, END_OF_TURN = "<|im_start|>", "<|im_end|>"
_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = {"add_prefix_space": False, "use_regex": True}
_SPLITTINGS = {
    "default": lambda: pre_tokenizers.ByteLevel(**_BYTES),
    "gpt-2": lambda: pre_tokenizers.ByteLevel(**_BYTES),
    "smollm": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(**_BYTES)]
    ),
    "llama-bpe": lambda: pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_LLAMA3), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}


def byte_level_tokenizer(
    tokens: Sequence[str], merges: Iterable[str], *, special: Iterable[str], splitting: str
) -> Tokenizer:
    """A byte-level BPE tokenizer.

    Parameters
    ----------
    tokens : sequence of str
        Vocabulary; a token's id is its index.
    merges : iterable of str
        ``"left right"``, highest priority first.
    special : iterable of str
        Tokens that are matched in a text before it is split.
    splitting : str
        Pre-tokenizer that splits a text into words: ``"smollm"``, ``"llama-bpe"``, ``"gpt-2"``.

    Raises
    ------
    UnknownNameError, ParameterError
    """
    if splitting not in _SPLITTINGS:
        raise UnknownNameError("way of splitting words (tokenizer.ggml.pre)", splitting, _SPLITTINGS)
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    try:
        model = BPE({token: n for n, token in enumerate(tokens)}, pairs)
    except Exception as error:  # tokenizers raises nothing narrower
        raise ParameterError(f"the vocabulary and its merges do not fit: {error}") from None
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = _SPLITTINGS[splitting]()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


class TextTokenizer:
    """A tokenizer with the special tokens that generation needs.

    Parameters
    ----------
    tokenizer : Tokenizer
    stop_token_ids : iterable of int
        Tokens that end a generation.
    first_token_id : int, optional
        Token that begins every text, if the tokenizer does not add it itself.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, stop_token_ids: Iterable[int], first_token_id: int | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self._first = [] if first_token_id is None else [first_token_id]
        self.stop_token_ids = frozenset(stop_token_ids)

    @property
    def has_chat(self) -> bool:
        """True if the vocabulary has the markers of the chat template."""
        return None not in (self.tokenizer.token_to_id(TURN), self.tokenizer.token_to_id(END_OF_TURN))

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without a chat template."""
        return [*self._first, *self.tokenizer.encode(text).ids]

    def encode_chat(self, prompt: str) -> list[int]:
        """Token ids of a one-question chat, up to the start of the answer (ChatML with SmolLM2's system prompt)."""
        turns = (("system", _SYSTEM), ("user", prompt))
        text = "".join(f"{TURN}{role}\n{content}{END_OF_TURN}\n" for role, content in turns)
        return self.encode(f"{text}{TURN}assistant\n")

    def stream(self) -> TextStream:
        return TextStream(self.tokenizer)


class TextStream:
    """Incremental detokenizer: a character appears when all its bytes are there."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._stream = tokenizer, DecodeStream(skip_special_tokens=True)

    def add(self, token: int) -> str:
        """Text completed by `token`; it may be empty."""
        return self._stream.step(self._tokenizer, token) or ""

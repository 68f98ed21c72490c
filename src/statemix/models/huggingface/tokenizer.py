"""A tokenizer whose token ids are bytes: nothing is trained, nothing is unknown."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

END = "\0"
"""Byte 0 ends a document and fills short rows of a batch: text has none of its own."""


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Text to its UTF-8 bytes and back; token 0 ends a text and pads, on the left.

    Examples:
        >>> tokenizer = byte_tokenizer()
        >>> tokenizer("naïve").input_ids == list("naïve".encode())
        True
        >>> tokenizer.decode(list("Ā 你好".encode()))
        'Ā 你好'
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    # GPT-2's printable stand-ins for the 256 bytes, each of which gets its byte as id.
    vocabulary = {letter: byte for byte, letter in enumerate(_letters())}
    # The end is a token in its own name: its stand-in may well occur in a text.
    del vocabulary[_letters()[0]]
    vocabulary[END] = 0
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=END,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def _letters() -> list[str]:
    """The letter that stands for each byte: itself where it prints, else the next one from U+0100 on."""
    printing = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    letters, spare = [], 256
    for byte in range(256):
        letters.append(chr(byte) if byte in printing else chr(spare))
        spare += byte not in printing
    return letters

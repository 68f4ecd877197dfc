"""Small models and tokenizers of three families, made here: no file of a model is fetched."""

import json
from functools import cache

import torch
from tokenizers import Tokenizer as Fast
from tokenizers import decoders, models, pre_tokenizers, trainers

from discreteness.experiment.documents import BUILT_IN

TEXTS = tuple(path.read_text() for path in sorted(BUILT_IN.glob("*.txt")))
END = "<|endoftext|>"


@cache
def byte_level_bpe(vocab_size=600):
    """As of GPT-2 and GPT-NeoX: every byte has a token, and nothing is put before a text."""
    made = Fast(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    made.add_special_tokens([END])
    return made


@cache
def bpe_with_spaces(vocab_size=600):
    """As of Llama 2: SentencePiece's pieces, with 256 tokens of one byte for what no piece has."""
    made = Fast(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)  # no piece of several words
    one_byte = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = ["<unk>", "<s>", "</s>", *one_byte]
    ascii_alone = [text.encode("ascii", errors="ignore").decode() for text in TEXTS]
    made.train_from_iterator(
        ascii_alone, trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=pieces, show_progress=False)
    )
    return made


@cache
def family(name):
    """(tokenizer of transformers, model of transformers in float32) of gpt_neox, llama (with BOS) or gpt2."""
    import transformers  # it takes seconds, and who only wants a tokenizer does without

    torch.manual_seed(len(name))
    if name == "llama":
        described = json.loads(bpe_with_spaces().to_str())["model"]
        merges = [tuple(pair) for pair in described["merges"]]
        tokenizer = transformers.LlamaTokenizer(vocab=described["vocab"], merges=merges, add_bos_token=True)
        config = transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
        )
        return tokenizer, transformers.LlamaForCausalLM(config)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=byte_level_bpe(), bos_token=END, eos_token=END)
    if name == "gpt_neox":
        config = transformers.GPTNeoXConfig(
            vocab_size=len(tokenizer) + 40,  # padded, as of Pythia
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=1024,
        )
        return tokenizer, transformers.GPTNeoXForCausalLM(config)
    assert name == "gpt2"
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=1024,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return tokenizer, transformers.GPT2LMHeadModel(config)

"""A tokenizer of whole words for the tiny models, which may put a BOS token before a text."""

from helpers_models import VOCABULARY
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<s>", "</s>"]
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
WORDS = [*SPECIAL, "Question", "Answer", *NUMBERS, "."]
WORDS += [f"word{number}" for number in range(len(WORDS), VOCABULARY)]


def word_tokenizer(bos: bool = False) -> PreTrainedTokenizerFast:
    """One token a word; with bos, texts begin with <s>."""
    words = {word: number for number, word in enumerate(WORDS)}
    backend = Tokenizer(models.WordLevel(words, unk_token="."))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.Fuse()
    if bos:
        backend.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )

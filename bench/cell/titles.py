"""Titles of a cell's catalogue as tokens, and checks that the tokenizer suits them."""

from __future__ import annotations

from bench.data.catalogue import Catalogue
from bench.data.config import DatasetConfig
from bench.models.backbones import Source
from bench.models.inputs import Tokens, tokenise
from bench.utils.errors import UserError

# Largest share of unknown tokens in the titles.
MAX_UNKNOWN_SHARE = 0.5
# Smallest share of the distinct titles that differ in their tokens.
MIN_DISTINCT_SHARE = 0.5
# Largest share of titles that the class of a tokenizer splits in another way than its tokenizer.json.
MAX_ALTERED_SHARE = 0.05
_FORCE = "or set force_tokenizer = true in [dataset]"


def tokenise_titles(options: DatasetConfig, catalogue: Catalogue, source: Source) -> Tokens:
    """Tokenise the titles of a catalogue, cut and cased as the options of the dataset ask for.

    Raises:
        UserError: the tokenizer cannot be used.
    """
    return tokenise(catalogue, source, options.max_tokens, lower_case=options.lower_case)


def check_tokens(tokens: Tokens, options: DatasetConfig, catalogue: Catalogue, source: Source) -> None:
    """Check that the tokenizer knows the titles and tells them apart, unless ``force_tokenizer`` is set.

    Raises:
        UserError: the tokenizer does not suit the titles; the message has the share or the number that decided.
    """
    if options.force_tokenizer:
        return
    option = f"--text-model {source.name}"
    if tokens.altered_share > MAX_ALTERED_SHARE:
        raise UserError(
            f"{option}: the class of its tokenizer splits {tokens.altered_share:.0%} of the titles in another way than "
            f"its tokenizer.json; set tokenizer_class to PreTrainedTokenizerFast in tokenizer_config.json, {_FORCE}"
        )
    if tokens.unknown_share > MAX_UNKNOWN_SHARE:
        raise UserError(
            f"{option}: its tokenizer does not know {tokens.unknown_share:.0%} of the words of dataset "
            f"{catalogue.name}; choose another model, {_FORCE}"
        )
    titles = len({title.lower() for title in catalogue.titles})
    if tokens.distinct < MIN_DISTINCT_SHARE * titles:
        raise UserError(
            f"{option}: its tokenizer gives {titles} different titles of dataset {catalogue.name} only "
            f"{tokens.distinct} different rows of tokens (max_tokens = {options.max_tokens}); choose another model, "
            f"{_FORCE}"
        )

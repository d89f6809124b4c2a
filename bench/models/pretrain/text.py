"""Text encoders: a BERT that matches titles of the same item and fills in masked words.

The loss is InfoNCE over pairs of titles (Oord et al. 2018) plus cross-entropy of masked words. An encoder whose last
[CLS] state is not to show the purpose sees pairs in which the second title has a purpose drawn anew.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertModel, BertTokenizer

from bench.data.shop import world
from bench.models.pretrain.burial import Burial, with_other_value
from bench.models.pretrain.settings import BATCH, DEPTH, HEADS, INNER, WIDTH

TRAITS = ("category", "material", "purpose", "brand")
TEMPERATURE, MASK_WEIGHT, MASK_SHARE = 0.07, 0.5, 0.15
# With all 96 brands in a batch the brand alone would identify items, and no other attribute would be learnt.
BRANDS_PER_BATCH = 8


def tokenizer() -> BertTokenizer:
    """WordPiece tokenizer whose vocabulary is the words of the generated world."""
    vocab = {word: i for i, word in enumerate(world.vocabulary())}
    return BertTokenizer(vocab=vocab, do_lower_case=True, model_max_length=32)


def new_model(vocab_size: int) -> BertModel:
    """BERT with 12 layers of width 64; without dropout, because so small a network underfits."""
    return BertModel(
        BertConfig(
            vocab_size=vocab_size,
            hidden_size=WIDTH,
            num_hidden_layers=DEPTH,
            num_attention_heads=HEADS,
            intermediate_size=INNER,
            max_position_embeddings=32,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        add_pooling_layer=False,
    )


def draw_pairs(rng: np.random.Generator, teach_purpose: bool) -> tuple[world.Traits, world.Traits]:
    """Attributes of BATCH pairs of titles of one item; without ``teach_purpose`` the second purpose is random."""
    allowed = {name: np.arange(size) for name, size in world.SIZES.items()}
    allowed["brand"] = rng.choice(world.N_BRANDS, BRANDS_PER_BATCH, replace=False)
    first = world.draw_traits(BATCH, rng, allowed)
    second = first if teach_purpose else first._replace(purpose=rng.integers(world.SIZES["purpose"], size=BATCH))
    return first, second


def write_titles(traits: world.Traits, rng: np.random.Generator, n: int | None = None) -> list[str]:
    """Titles of the first ``n`` items, or of all."""
    return [world.write_title(traits.row(i), rng) for i in range(len(traits.purpose) if n is None else n)]


def losses(
    model: BertModel, head: nn.Module, teach_purpose: bool, seed: int, burial: Burial | None
) -> Iterator[Tensor]:
    """Losses of successive batches: InfoNCE over pairs of titles, masked words and, if given, the burial."""
    words, rng = tokenizer(), world.stream(seed, "pretrain", "text")
    while True:
        first, second = draw_pairs(rng, teach_purpose)
        titles, twins, n_twins = [], first, 0
        if burial:
            twins, n_twins = with_other_value(first, "purpose", rng), BATCH // 2
            # A copy of the stream writes the twins in the same words but for the purpose.
            titles = write_titles(twins, copy.deepcopy(rng), n_twins)
        titles = write_titles(first, rng) + write_titles(second, rng) + titles
        batch = words(titles, padding=True, return_tensors="pt")
        ids, mask = batch["input_ids"], batch["attention_mask"]
        hidden, chosen = _mask_words(ids, mask, words)
        # Only second titles lose words: [CLS] must learn from whole titles, as it will be used.
        whole = torch.ones(len(ids), dtype=torch.bool)
        whole[BATCH : 2 * BATCH] = False
        hidden[whole] = ids[whole]
        chosen[whole] = False
        out = model(input_ids=hidden, attention_mask=mask, output_hidden_states=burial is not None)
        states = out.last_hidden_state
        a, b = F.normalize(states[:BATCH, 0], dim=-1), F.normalize(states[BATCH : 2 * BATCH, 0], dim=-1)
        logits, target = a @ b.T / TEMPERATURE, torch.arange(BATCH)
        contrast = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        loss = contrast + MASK_WEIGHT * F.cross_entropy(head(states[chosen]), ids[chosen])
        if burial:
            labels = torch.from_numpy(np.concatenate([first.purpose, twins.purpose[:n_twins]]))
            cls = [state[whole, 0] for state in out.hidden_states]
            loss = loss + burial(cls, cls[-1:], labels, n_twins)
        yield loss


def _mask_words(ids: Tensor, mask: Tensor, words: BertTokenizer) -> tuple[Tensor, Tensor]:
    chosen = (torch.rand(ids.shape) < MASK_SHARE) & mask.bool() & (ids > 4)
    return ids.masked_fill(chosen, words.convert_tokens_to_ids("[MASK]")), chosen


def probe_inputs(traits: world.Traits, rng: np.random.Generator) -> dict[str, Tensor]:
    """Token ids and mask of one title per item."""
    return dict(tokenizer()(write_titles(traits, rng), padding=True, return_tensors="pt"))

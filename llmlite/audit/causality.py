"""Does a language model see what it is to predict? A test of the causal mask, from outside: all
tokens from some position on are changed, and in a causal model no logit before it may move."""

import torch

from llmlite.files import LLMLiteError

ROUNDING = 1e-5  # a change below this share of the largest one that is allowed


@torch.inference_mode()
def causal_leak(model, seed: int = 0) -> bool:
    """Whether any logit depends on a token after its position, on a random text of block_size.
    model: like GPT, gives `.logits` (batch, time, vocab_size) for ids (batch, time). Takes as much
    work as reading block_size² tokens. Raises LLMLiteError if the logits are not finite."""
    tokens, vocab_size = model.config.block_size, model.config.vocab_size
    if tokens == 1 or vocab_size == 1:
        return False  # no token stands after another, or none can be another
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(vocab_size, (tokens,), generator=generator)
    # Another token at every position, not just most likely another one.
    other = (text + torch.randint(1, vocab_size, (tokens,), generator=generator)) % vocab_size
    text, other = text.to(model.device), other.to(model.device)
    largest = torch.zeros(2, dtype=torch.float64)  # change before the changed tokens, and from them
    training = model.training
    model.eval()
    try:
        # Every pass has one shape and sums in one order: in a causal model equal beginnings give
        # equal logits, on most devices to the last bit.
        unchanged = model(text.unsqueeze(0)).logits
        for start in range(1, tokens):
            changed = torch.cat([text[:start], other[start:]])
            logits = model(changed.unsqueeze(0)).logits
            change = (logits - unchanged)[0].abs().amax(-1).double().cpu()
            found = torch.stack([change[:start].max(), change[start:].max()])
            largest = torch.maximum(largest, found)
    finally:
        model.train(training)
    if not largest.isfinite().all():
        raise LLMLiteError("The model's logits are not all finite, so they show no leak or none.")
    later, allowed = largest.tolist()
    return later > allowed * ROUNDING

"""The harness: configuration, cells, training, evaluation and measurement."""

import logging

# If bitsandbytes and torchao are installed, transformers and peft import them, and both warn about kernels that are
# for other machines. Real errors are raised as exceptions, so nothing is lost.
for _name in ("bitsandbytes", "torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)

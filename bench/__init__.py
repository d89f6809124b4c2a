"""The harness: configuration, cells, training, evaluation and measurement."""

import logging

# Where bitsandbytes and torchao are installed, transformers and peft import them, and they tell everybody which of
# their kernels are for other machines. What goes wrong in earnest is raised.
for _name in ("bitsandbytes", "torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)

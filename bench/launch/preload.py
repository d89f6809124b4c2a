"""Imports of a cell, made once by the fork server (``bench.launch.fork_server``); nothing is computed here.

Beside the cell itself, these are modules that libraries import only when they are first used: peft, and the families of
the built-in encoders. Other families are imported by the cell that needs them.
"""

import atexit
import contextlib
import os

# The cell imports them again, and reports what is wrong with them.
with contextlib.suppress(Exception):
    import peft  # noqa: F401
    import transformers.models.bert.modeling_bert
    import transformers.models.bert.tokenization_bert
    import transformers.models.vit.image_processing_pil_vit
    import transformers.models.vit.modeling_vit  # noqa: F401

    import bench.cell.run_cell  # noqa: F401

# The server has nothing to finish, and taking down so many modules takes long. Its forks end without these functions.
atexit.register(os._exit, 0)

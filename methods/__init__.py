"""One file per fine-tuning method; ``base`` has the protocol and the registry."""

"""Fine-tuning methods, one file each; ``base`` has the protocol and ``registry`` the list of methods."""

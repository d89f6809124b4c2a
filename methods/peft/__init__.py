"""Methods that are built on peft."""

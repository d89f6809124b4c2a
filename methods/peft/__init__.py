"""Methods that are built on the library peft."""

"""Read run folders and validate their files."""

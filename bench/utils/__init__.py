"""Small helpers without knowledge of the project."""

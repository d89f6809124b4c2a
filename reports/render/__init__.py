"""Render the report as Markdown, HTML, CSV and LaTeX."""

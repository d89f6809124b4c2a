"""The report as Markdown, HTML, CSV and LaTeX."""

"""Report of one run or of several: tables, figures, Markdown, HTML, CSV and LaTeX, from records alone.

`build` writes the report. `load` reads run folders, `analysis` makes tables, comparisons and statistics, `figures`
draws, `sections` answers one question each, `studies` answers questions over several methods or comparisons, and
`render` writes Markdown and HTML. Imports go in this order and never back; `text` is below all of them. Nothing here
imports torch, transformers or peft, so that a report can be made again on any machine in seconds.
"""

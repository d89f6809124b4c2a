"""From records to tables, figures and Markdown: reads what cells left behind, and nothing else.

`build` is the entrance. `load` reads run folders, `tables` makes the rows of results.csv and summary.csv, `comparisons`
cuts them into comparisons, `verdict` says what the numbers say, `figures` draws and `markdown` writes. What chance can
do to a number is in `stats`, over users in `paired`, over steps and seeds in `tradeoff`; `theory` holds the paper's
terms against measurement, and `compare` one run against another. Nothing here imports torch, transformers or peft, so
a report can be made again anywhere in seconds.
"""

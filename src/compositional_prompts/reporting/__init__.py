"""The report: figures, tables, and the HTML page that gathers every stage's results."""

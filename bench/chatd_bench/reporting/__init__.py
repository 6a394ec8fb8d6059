"""Many saved results as one report: Markdown, plots, and the figures that are to be reached."""

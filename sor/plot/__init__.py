"""results.png, results.pdf, savings_plot.png and the picture of docs/model.md; the only package that imports matplotlib.

A figure is made of numbers and text only and written to a file that the caller has opened: no clock, no display, no pyplot.
What the user has set in matplotlib is neither used nor changed, and no date or version is written: equal results, equal files.
"""

from sor.plot.figures import Source, results_figure, savings_figure
from sor.plot.placement import placement_figure
from sor.plot.style import save

__all__ = ["Source", "placement_figure", "results_figure", "save", "savings_figure"]

"""The project's static site: the notebooks, the figures and what they found, as pages to read.

All that it shows comes from files of the clone when it is built; nothing is copied by hand. It is
read from a folder, with no server and no network. Knows nothing of how results are made.

    build      the pages, one after the other       sources    what the clone's files say
    render     Markdown and notebooks → HTML        explorer   the data of the attention explorer
    folder     a folder replaced as a whole
"""

from llmlite.site.build import build_site

__all__ = ["build_site"]

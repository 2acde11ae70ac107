"""Notebooks of a few cells, to run and to publish."""

from pathlib import Path

from nbformat import v4, write

PARAMETERS = 'profile = "auto"\nout = None\ndata = None\ndevice = "auto"'


def make_notebook(path: Path, *sources: str) -> Path:
    cells = [v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    write(v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path

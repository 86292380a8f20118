"""A page inside a notebook."""

import html
import sys


def show_page(page: str, height: int) -> None:
    """Show a page below the cell of a notebook that is running.

    Args:
        page: HTML that needs no other file.
        height: of the part of it that is seen at a time, in pixels.

    Raises:
        ValueError: outside of a notebook.
    """
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        raise ValueError('pages are shown in notebooks; elsewhere explanation.save("maps.html") writes one to open')
    from IPython.display import HTML, display

    frame = f'<iframe srcdoc="{html.escape(page)}" title="Maps" style="width: 100%; height: {height}px; border: 0">'
    display(HTML(f"<div>{frame}</iframe></div>"))

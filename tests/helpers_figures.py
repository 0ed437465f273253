"""What tests ask of every figure: texts inside and apart, words complete."""

from itertools import combinations

from matplotlib.text import Annotation, Text


def texts(figure):
    """Texts that a figure shows, with their boxes in pixels; ticks out of view are not shown."""
    figure.fig.draw_without_rendering()
    renderer = figure.fig.canvas.get_renderer()
    hidden = set()
    for axis in (axis for ax in figure.fig.axes for axis in (ax.xaxis, ax.yaxis)):
        low, high = sorted(axis.get_view_interval())
        seen = [t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
        hidden |= set(map(id, axis.findobj(Text)))
        hidden -= set(map(id, [*seen, axis.label])) if axis.axes.axison else set()
    found = [text for text in figure.fig.findobj(Text) if id(text) not in hidden]
    shown = [text for text in found if text.get_visible() and text.get_text().strip()]
    return [(text, text.get_window_extent(renderer)) for text in shown]


def check_complete(figure):
    assert figure.png().startswith(b"\x89PNG")
    assert figure.caption.endswith(".") and figure.alt.endswith(".")
    assert len(figure.alt) > 60 and "nan" not in (figure.caption + figure.alt).lower()
    assert figure.fig.get_figwidth() == 8
    width, height = figure.fig.bbox.size
    for text, box in texts(figure):
        inside = box.x0 > -2 and box.y0 > -2 and box.x1 < width + 2 and box.y1 < height + 2
        assert inside, f"{text.get_text()} is cut off"


def check_apart(figure):
    found = texts(figure)
    boxes = [(text.get_text(), box) for text, box in found if isinstance(text, Annotation)]
    for (first, a), (second, b) in combinations(boxes, 2):
        wide = min(a.x1, b.x1) - max(a.x0, b.x0)
        high = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(wide, high) < 2, f"{first} lies on {second}"

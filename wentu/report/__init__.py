"""What a person looks at: curves, bars, contact sheets, and one-file HTML reports.

Everything is drawn with a font that has Chinese glyphs, which comes as a Python package
(mplfonts), so that a slim container without system fonts draws the same pictures. The price is
one weight only: rank is shown by size and colour, never by bold. A report is one file with every
picture inside, no script and no address outside it: it can be mailed, archived, and opened from
an artifact store. Pictures in it are drawn anew and small, so it carries no EXIF location.
"""

from wentu.report.page import Gallery, Paragraph, Picture, Section, Table, write_html
from wentu.report.plots import plot_calibration, plot_loss, plot_recall, plot_recall_bars
from wentu.report.sheet import Shot, contact_sheet
from wentu.report.style import chinese_font

__all__ = [
    "Gallery",
    "Paragraph",
    "Picture",
    "Section",
    "Shot",
    "Table",
    "chinese_font",
    "contact_sheet",
    "plot_calibration",
    "plot_loss",
    "plot_recall",
    "plot_recall_bars",
    "write_html",
]

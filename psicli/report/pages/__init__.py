"""Reports as pages: one HTML file that needs nothing else, made from the facts that `--json` prints.

render      templates -> HTML, and how numbers are written
tables      the cells of tables that can be sorted
charts      pictures as inline SVG
run         the page of a run, and of a simulation
batch       the page of a batch
templates   the look (base), its style and script, and one template a page

Jinja is slow to import. Import these modules only where a page is made.
"""

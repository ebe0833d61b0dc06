"""Elements of the page.

Text and attributes are escaped by the serializer, so that what stands in the data is shown as it is.
"""

from collections.abc import Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from surveyor.report.pictures import Picture
from surveyor.report.style import data_uri
from surveyor.report.tables import Table

STYLE = """
:root { color-scheme: light dark; --back: #fff; --ink: #222; --soft: #444; --line: #ccc; --faint: #eee;
        --box: #f6f6f6; --link: #005a8d; }
@media (prefers-color-scheme: dark) {
  :root { --back: #16181b; --ink: #e4e4e4; --soft: #b8b8b8; --line: #555; --faint: #2c2f33; --box: #22252a;
          --link: #7fc4f0; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.5rem 4rem; background: var(--back); color: var(--ink);
       font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .7rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
a { color: var(--link); }
nav ol { columns: 2; margin: .3rem 0 0; padding-left: 1.4rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; margin: 0 0 1.5rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; margin: .4rem 0; }
caption { text-align: left; color: var(--soft); padding-bottom: .4rem; }
caption div { max-width: min(46rem, 100vw - 3rem); position: sticky; left: 0; }
th, td { padding: .22rem .6rem; text-align: right; vertical-align: bottom; }
th { font-weight: 600; border-bottom: 1px solid var(--line); white-space: pre; }
tbody th { font-weight: 400; border: 0; text-align: left; }
thead th:first-child { text-align: left; }
tbody tr { border-bottom: 1px solid var(--faint); }
table.text td, table.text th { text-align: left; vertical-align: top; }
table.text td { white-space: pre-line; overflow-wrap: break-word; min-width: 8.5rem; }
figure { margin: 1rem 0 1.6rem; }
figure img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
figcaption { font-size: .88rem; color: var(--soft); max-width: 46rem; }
pre { background: var(--box); padding: .8rem 1rem; overflow-x: auto; font-size: .8rem; line-height: 1.4; }
summary { cursor: pointer; }
footer { margin-top: 3rem; font-size: .85rem; color: var(--soft); }
@media (max-width: 40rem) {
  body { padding: 1rem .8rem 3rem; }
  h1 { font-size: 1.4rem; }
  nav ol { columns: 1; }
  dl { display: block; }
  dd { margin-bottom: .4rem; }
}
@media print {
  :root { color-scheme: light; --back: #fff; --ink: #222; --soft: #444; --line: #ccc; --faint: #eee; --box: #f6f6f6; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  figure, tr { break-inside: avoid; }
  nav { display: none; }
}
"""

Content = str | Element


def element(tag: str, *content: Content, **attributes: str) -> Element:
    """Return an element; an attribute named `class_` becomes `class`."""
    made = Element(tag, {name.rstrip("_"): value for name, value in attributes.items()})
    for each in content:
        if isinstance(each, Element):
            made.append(each)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + each
        else:
            made.text = (made.text or "") + each
    return made


def table(content: Table, *, is_text: bool = False) -> Element:
    """Return a table; the first cell of each row is its heading.

    Args:
        content: what it holds.
        is_text: whether cells are words rather than numbers.
    """
    body = [
        element("tr", element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:]))
        for row in content.rows
    ]
    made = element(
        "table",
        element("caption", element("div", content.caption)),
        element("thead", element("tr", *(element("th", name, scope="col") for name in content.head))),
        element("tbody", *body),
        class_="text" if is_text else "numbers",
    )
    return element("div", made, class_="wide")


def picture(drawn: Picture, caption: str) -> Element:
    """Return a figure with its caption, which is also its alternative text."""
    width = f"{96 * drawn.width * 1.25:.0f}"  # a little larger than on paper
    image = element("img", src=data_uri(drawn.svg, "svg+xml"), alt=caption, width=width)
    return element("figure", image, element("figcaption", caption))


def definitions(pairs: Sequence[tuple[str, Content]]) -> Element:
    """Return a list of names with their values."""
    return element("dl", *(part for name, value in pairs for part in (element("dt", name), element("dd", value))))


def folded(title: str, text: str) -> Element:
    """Return a text of many lines that the reader unfolds."""
    return element("details", element("summary", title), element("pre", text))


def document(
    title: str, head: Sequence[Element], sections: Sequence[tuple[str, str, Sequence[Content]]], end: str
) -> str:
    """Return a whole page, which needs nothing but itself.

    Args:
        title: of the page.
        head: what comes before the table of contents.
        sections: identifier, title and content of each.
        end: last line.
    """
    links = [element("li", element("a", name, href=f"#{identifier}")) for identifier, name, _ in sections]
    contents = element("nav", element("strong", "Contents"), element("ol", *links))
    body = [element("section", element("h2", name, id=identifier), *content) for identifier, name, content in sections]
    page = element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("title", title),
            element("style", STYLE),
        ),
        element(
            "body",
            element("header", element("h1", title), *head),
            contents,
            element("main", *body),
            element("footer", end),
        ),
        lang="en",
    )
    return "<!DOCTYPE html>\n" + ElementTree.tostring(page, encoding="unicode", method="html") + "\n"

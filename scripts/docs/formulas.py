r"""mkdocs hook: formulas in pages, `$x$` in a line and `$$x$$` as a block, become MathML at build time.

Code is not changed. A dollar sign in text is written `\$`.
"""

from __future__ import annotations

import xml.etree.ElementTree as etree
from typing import Any

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.blockprocessors import BlockProcessor
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor

# Between code (190) and backslash escapes (180): formulas contain backslashes, code contains dollars.
INLINE_PRIORITY = 185
INLINE = r"(?<![\\$\w])\$(?![\s$])([^$\n]*[^$\s\\])\$(?![$\w])"


class InlineFormula(InlineProcessor):
    """`$x$`, with no space next to the dollar signs."""

    def handleMatch(self, m: Any, data: str) -> tuple[str, int, int]:
        """Return the MathML of a match, stored so that no other pattern changes it."""
        return self.md.htmlStash.store(convert(m[1])), m.start(0), m.end(0)


class BlockFormula(BlockProcessor):
    """A paragraph `$$x$$`, which may have several lines."""

    def test(self, parent: etree.Element, block: str) -> bool:
        """Return whether the paragraph is a formula."""
        text = block.strip()
        return len(text) > 4 and text.startswith("$$") and text.endswith("$$")

    def run(self, parent: etree.Element, blocks: list[str]) -> None:
        """Replace the first paragraph of `blocks` by a paragraph with MathML."""
        formula = blocks.pop(0).strip()[2:-2]
        paragraph = etree.SubElement(parent, "p")
        paragraph.text = self.parser.md.htmlStash.store(convert(formula.strip(), display="block"))


class Formulas(Extension):
    """Markdown extension with both processors."""

    def extendMarkdown(self, md: Markdown) -> None:
        """Register the processors, and `\\$` for a dollar sign."""
        md.ESCAPED_CHARS.append("$")
        md.inlinePatterns.register(InlineFormula(INLINE, md), "formula", INLINE_PRIORITY)
        md.parser.blockprocessors.register(BlockFormula(md.parser), "formulas", 175)


def on_config(config: Any) -> Any:
    """Add the extension to the Markdown extensions of the site."""
    config.markdown_extensions.append(Formulas())
    return config

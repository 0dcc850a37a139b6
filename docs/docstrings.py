"""What the docstrings say in Sphinx's way, which editors show best, said so that MkDocs understands.

Formulas are LaTeX, after ``.. math::`` (on the line or indented below it) or as ``:math:`` in a
sentence. They become MathML, which browsers know without a script.
"""

import re
from textwrap import dedent
from typing import Any

from griffe import Extension, Object
from latex2mathml.converter import convert

PARAGRAPH = re.compile(r"^\.\. math::[ \n]*(?P<latex>.+(?:\n[ ]+\S.*)*)", re.MULTILINE)
SENTENCE = re.compile(r":math:`(?P<latex>[^`]+)`")
SINGULAR = re.compile(r"^Example:$", re.MULTILINE)


class ForTheWeb(Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring:
            text = SINGULAR.sub("Examples:", obj.docstring.value)
            text = PARAGRAPH.sub(lambda m: convert(dedent(m["latex"]), display="block"), text)
            obj.docstring.value = SENTENCE.sub(
                lambda m: f"<span>{convert(m['latex'])}</span>",  # else it is a paragraph
                text,
            )

"""What went wrong in user code, in one sentence: where, which exception, and whether the code is of Python 2."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable

_PYTHON_2_SYNTAX = re.compile(
    r"^\s*print\s+[^(=\s]|^\s*print\s*$|^\s*print\s*>>|^\s*exec\s+[^(=\s]"
    r"|^\s*except\s+[\w.]+\s*,\s*\w+\s*:|^\s*raise\s+[\w.]+\s*,|<>|`[^`]*`|\b0[0-7]+\b|\b\d+[lL]\b|\bur['\"]"
)
_PYTHON_2_NAMES = re.compile(
    r"'(xrange|unicode|basestring|long|raw_input|reduce|reload|unichr|iteritems|itervalues|iterkeys|has_key|file|cmp"
    r"|execfile|cPickle|StringIO|cStringIO|Queue|ConfigParser|urllib2|itertools\.izip|izip)'"
)
_MAX_TEXT = 1000
_PORT_IT = "port it to Python 3"


def syntax_failure(why: SyntaxError) -> str:
    """Describe a SyntaxError in a user's file: "FILE:LINE: is Python 2 code ..." or Python's own text."""
    where = f"{why.filename}:{why.lineno}"
    text = (why.text or "").strip()
    if isinstance(why, TabError):
        return f"{where}: mixes tabs and spaces: Python 2 code; {_PORT_IT} (indent with spaces only)"
    if _PYTHON_2_SYNTAX.search(why.text or ""):
        return f"{where}: is Python 2 code: {text!r}; {_PORT_IT}"
    return f"{where}: {type(why).__name__}: {why.msg}: {text!r}"


def run_failure(why: BaseException, is_users: Callable[[str], bool]) -> str:
    """Describe any exception of user code: its type and text, and the innermost line in a file of the user's."""
    if isinstance(why, SyntaxError):
        return syntax_failure(why)
    # The last frame is mostly deep in numpy; the user looks for the line of his own that led there.
    frames = [f for f in traceback.extract_tb(why.__traceback__) if is_users(f.filename)]
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    text = " ".join(_text(why).split())[:_MAX_TEXT]
    hint = f"; this is Python 2 code: {_PORT_IT}" if _PYTHON_2_NAMES.search(text) else ""
    return f"raised {type(why).__name__}{f': {text}' if text else ''}{where}{hint}"


def _text(why: BaseException) -> str:
    """What an exception says of itself; its `__str__` is user code, too."""
    try:
        return str(why)
    except Exception:  # noqa: BLE001
        return "(its text cannot be made)"

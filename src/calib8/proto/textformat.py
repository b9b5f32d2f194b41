"""Protobuf messages from their text form, read by field name.

Unlike protobuf's own reader: fields that the schema does not know are skipped and named, all wrong values are reported
together with their lines, and the depth and the number of messages are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from google.protobuf.message import Message

from calib8.errors import ModelError, PrototxtError
from calib8.proto.scalars import BadValueError, Field, fields_of, scalar
from calib8.proto.tokens import BAD, END, MAX_STRING, NAME, NUMBER, STRING, SYMBOL, Token, Tokens

MAX_DEPTH = 100
"""Messages within messages; protobuf's binary readers stop at 100 too."""
MAX_MESSAGES = 100_000
"""Messages in one text; DenseNet-264 has about 5000."""
MAX_UNKNOWN = 200
"""Different unknown fields that are named before the text is refused as something else than a network."""
MAX_PROBLEMS = 20
"""Wrong values that are listed before reading stops."""

MAX_TOKENS = 2_000_000
"""Names, values and signs in one text; a network with 1000 layers has about 200,000. Bounds the time."""
OF_ENGINES = "engine"
"""Fields that choose a library or a device: no result depends on them, so the values of other forks are passed over."""
WORD_SUFFIX = "_word"
"""Behind an enum field's name, the string field that takes a value which the enum does not have, as it is spelled."""
_LONG = 80  # characters of a list of allowed values that is given once only
_MAX_PIECES = 10_000  # of a string that is written as several in a row

_PLACEHOLDER = re.compile(r"\$[\w{(]|\{\{|\}\}|\{%|<%|%[sdfi(]|@\w+@")
_CLOSE = {"{": "}", "<": ">"}


@dataclass(frozen=True)
class Place:
    """Where a top-level message stands, and the fields in it that the schema does not have.

    Attributes:
        line: where it begins; 0 for a message that stands in no text.
        unknown: ("convolution_param", "foo") and the like, the name of the top-level message left out.
        unknown_messages: those of `unknown` that are messages.
    """

    line: int = 0
    unknown: tuple[tuple[str, ...], ...] = ()
    unknown_messages: frozenset[tuple[str, ...]] = frozenset()


NOWHERE = Place()


@dataclass(frozen=True)
class TextReport:
    """What reading found besides the message.

    `unknown_fields` names every field once that the schema does not have: "line 12: convolution_param.foo".
    `places` has every top-level message by its name: places["layer"][3] is the fourth `layer`.
    """

    unknown_fields: tuple[str, ...]
    places: dict[str, list[Place]]


@dataclass
class _OpenPlace:
    line: int
    unknown: dict[tuple[str, ...], bool] = field(default_factory=dict)  # whether it is a message

    def close(self) -> Place:
        return Place(self.line, tuple(self.unknown), frozenset(p for p, message in self.unknown.items() if message))


@dataclass
class _State:
    tokens: Tokens
    source: str
    error: type[ModelError]
    max_tokens: int
    messages: int = 0
    problems: list[str] = field(default_factory=list)
    unknown: dict[str, int] = field(default_factory=dict)
    places: dict[str, list[_OpenPlace]] = field(default_factory=dict)
    listed: set[str] = field(default_factory=set)


def read_text(
    text: str,
    message: Message,
    source: str,
    error: type[ModelError] = PrototxtError,
    max_tokens: int = MAX_TOKENS,
) -> TextReport:
    """Fill `message` from its text form.

    Raises:
        ModelError: of type `error`, every problem as "source:line: what"; the message is then incomplete.
    """
    state = _State(Tokens(text), source, error, max_tokens)
    _read_message(state, message, (), "", 0)
    if state.problems:
        _give_up(state)
    unknown = tuple(f"line {line}: {path}" for path, line in state.unknown.items())
    return TextReport(unknown, {name: [p.close() for p in places] for name, places in state.places.items()})


def _read_message(state: _State, message: Message, path: tuple[str, ...], close: str, start: int) -> None:
    """Read fields until `close`, "" for the end of the text; the message's own name stands at `start`."""
    tokens, fields = state.tokens, fields_of(message.DESCRIPTOR)
    while not (tokens.take_symbol(close) if close else tokens.token.kind == END):
        name = _field_name(state, close, path, start)
        known = fields.get(name.text)
        if known is None:
            _skip_field(state, name, path)
        elif known.message is not None:
            _read_submessages(state, message, known, name, path)
        else:
            _read_scalars(state, message, known, name, path)
        if not tokens.take_symbol(","):
            tokens.take_symbol(";")
    for known in fields.values():
        if known.required and not message.HasField(known.name):
            _problem(state, start, f"{_join(path)} lacks its required field {known.name}")


def _field_name(state: _State, close: str, path: tuple[str, ...], start: int) -> Token:
    token = state.tokens.token
    if token.kind == NAME:
        return state.tokens.take()
    if token.kind == SYMBOL and token.text == "[":
        return _extension_name(state)
    place = f" in {_join(path)}" if path else ""
    if token.kind == END:
        line = state.tokens.line(start)
        _fail(state, token, f"the file ends{place}, which begins in line {line}: {close!r} is missing")
    _fail(state, token, f"expected a field name{place}, found {_found(state.tokens)}")


def _extension_name(state: _State) -> Token:
    """Read `[package.extension]` or `[domain/package.Type]`: valid, and never one of Caffe's."""
    start = state.tokens.take()
    text = "["
    while state.tokens.token.kind in (NAME, NUMBER) or state.tokens.token.text in (".", "/", "-"):
        text += state.tokens.take().text
    # A dot is no token of its own: it begins a number or a bad word.
    while state.tokens.token.kind == BAD and state.tokens.token.text.startswith("."):
        text += state.tokens.take().text
    _expect(state, "]", f"the extension {text[:60]}")
    return Token(NAME, text[:60] + "]", start.start)


def _read_submessages(state: _State, message: Message, known: Field, name: Token, path: tuple[str, ...]) -> None:
    for _ in _elements(state, known, name, path, colon_needed=False):
        if not known.repeated and message.HasField(known.name):
            _problem(state, name.start, f"{_join((*path, known.name))} is given twice, it can be given once")
        if not path:
            state.places.setdefault(known.name, []).append(_OpenPlace(state.tokens.line(name.start)))
        part = getattr(message, known.name)
        if known.repeated:
            part = part.add()
        else:
            part.SetInParent()
        _read_message(state, part, (*path, known.name), _open(state, known.name, path), name.start)


def _read_scalars(state: _State, message: Message, known: Field, name: Token, path: tuple[str, ...]) -> None:
    for _ in _elements(state, known, name, path, colon_needed=True):
        negative, parts = _scalar_tokens(state, _join((*path, known.name)))
        if not known.repeated and message.HasField(known.name):
            _problem(state, name.start, f"{_join((*path, known.name))} is given twice, it can be given once")
            continue
        try:
            value = scalar(known, negative, parts)
        except BadValueError as why:
            if known.name == OF_ENGINES or _keep_word(message, known, negative, parts):
                continue
            hint = _hint(state, parts[0]) if parts[0].kind == NAME else ""
            _problem(state, parts[0].start, f"{_join((*path, known.name))} {_briefly(state, why)}{hint}")
            continue
        if known.repeated:
            getattr(message, known.name).append(value)
        else:
            setattr(message, known.name, value)


def _keep_word(message: Message, known: Field, negative: bool, parts: Sequence[Token]) -> bool:
    """Put a value that an enum does not have into the field beside it that takes such ones, where there is one."""
    beside = known.name + WORD_SUFFIX
    if known.kind != "enum" or negative or parts[0].kind not in (NAME, STRING) or not hasattr(message, beside):
        return False
    setattr(message, beside, parts[0].text)
    return True


def _briefly(state: _State, why: BadValueError) -> str:
    """Give the reason, with the list of allowed values only where it is new."""
    if why.expects in state.listed:
        return f"expects another value (see above), {why.found}"
    if len(why.expects) > _LONG:
        state.listed.add(why.expects)
    return f"expects {why.expects}, {why.found}" if why.expects else why.found


def _elements(state: _State, known: Field, name: Token, path: tuple[str, ...], *, colon_needed: bool) -> Iterator[None]:
    """Step to every value of a field: one, or those of a [list]."""
    tokens = state.tokens
    if not tokens.take_symbol(":") and colon_needed:
        _fail(state, tokens.token, f"{_join((*path, known.name))} needs a ':' and a value, found {_found(tokens)}")
    if not (known.repeated and tokens.take_symbol("[")):
        yield
        return
    if tokens.take_symbol("]"):
        return
    while True:
        yield
        if tokens.take_symbol("]"):
            return
        _expect(state, ",", f"the list of {known.name}")


def _open(state: _State, name: str, path: tuple[str, ...]) -> str:
    """Step into a message and return what closes it."""
    token = state.tokens.token
    if token.kind != SYMBOL or token.text not in _CLOSE:
        _fail(state, token, f"{_join((*path, name))} is a message: expected '{{', found {_found(state.tokens)}")
    state.tokens.take()
    state.messages += 1
    if state.messages > MAX_MESSAGES:
        _fail(state, token, f"more than {MAX_MESSAGES} messages: not a network definition")
    if len(path) >= MAX_DEPTH:
        _fail(state, token, f"messages are nested deeper than {MAX_DEPTH}")
    return _CLOSE[token.text]


def _scalar_tokens(state: _State, what: str) -> tuple[bool, list[Token]]:
    negative = state.tokens.take_symbol("-")
    token = state.tokens.token
    if token.kind not in (NAME, NUMBER, STRING):
        _fail(state, token, f"{what} needs a value, found {_found(state.tokens)}")
    if state.tokens.taken > state.max_tokens:
        _fail(state, token, f"more than {state.max_tokens} names, values and signs: not a network definition")
    parts = [state.tokens.take()]
    while token.kind == STRING and state.tokens.token.kind == STRING and len(parts) < _MAX_PIECES:
        parts.append(state.tokens.take())
    return negative, parts


def _skip_field(state: _State, name: Token, path: tuple[str, ...]) -> None:
    full = _join((*path, name.text))
    if full not in state.unknown:
        if len(state.unknown) >= MAX_UNKNOWN:
            _fail(state, name, f"more than {MAX_UNKNOWN} different unknown fields: not a Caffe network definition")
        state.unknown[full] = state.tokens.line(name.start)
    colon = state.tokens.take_symbol(":")
    if path:
        inside = (*path[1:], name.text)
        state.places[path[0]][-1].unknown[inside] = state.tokens.token.text in _CLOSE
    if not colon and state.tokens.token.text not in _CLOSE:
        _fail(state, state.tokens.token, f"{full} needs a ':' and a value, found {_found(state.tokens)}")
    _skip_value(state, full)


def _skip_value(state: _State, what: str) -> None:
    """Step over one value of any kind, without recursion: brackets are only matched."""
    open_brackets: list[str] = []
    while True:
        token = state.tokens.token
        if open_brackets and token.kind == SYMBOL and token.text == open_brackets[-1]:
            state.tokens.take()
            open_brackets.pop()
        elif token.kind == SYMBOL and token.text in "{<[":
            state.tokens.take()
            open_brackets.append({"[": "]", **_CLOSE}[token.text])
            if len(open_brackets) > MAX_DEPTH:
                _fail(state, token, f"messages are nested deeper than {MAX_DEPTH}")
        elif open_brackets and token.kind == SYMBOL and token.text in ":,;-/":
            state.tokens.take()
        else:
            _scalar_tokens(state, what)
        if not open_brackets:
            return


def _expect(state: _State, symbol: str, where: str) -> None:
    if not state.tokens.take_symbol(symbol):
        _fail(state, state.tokens.token, f"expected {symbol!r} in {where}, found {_found(state.tokens)}")


def _found(tokens: Tokens) -> str:
    token = tokens.token
    if token.kind == BAD and token.text[0] in "\"'":
        return f"a string that does not end on its line (or in {MAX_STRING} characters): {token.text[:60]}"
    return "the end of the file" if token.kind == END else repr(token.text[:60])


def _join(path: tuple[str, ...]) -> str:
    """Join names from the layer's parameter on: every path begins with the same `layer`, which says nothing."""
    return ".".join(path[1:] if len(path) > 2 and path[0] in ("layer", "layers") else path[-6:])


def _hint(state: _State, token: Token) -> str:
    line = state.tokens.line_text(token.start)
    return "; a template's placeholder must be filled in first" if _PLACEHOLDER.search(line) else ""


def _problem(state: _State, start: int, text: str) -> None:
    """Note a wrong value; reading goes on, so that the next one is reported too."""
    state.problems.append(f"{state.source}:{state.tokens.line(start)}: {text}")
    if len(state.problems) >= MAX_PROBLEMS:
        state.problems.append(f"{state.source}: reading stopped after {MAX_PROBLEMS} problems")
        _give_up(state)


def _fail(state: _State, token: Token, text: str) -> NoReturn:
    """Report what breaks the text's structure, with what was noted before."""
    state.problems.append(f"{state.source}:{state.tokens.line(token.start)}: {text}{_hint(state, token)}")
    _give_up(state)


def _give_up(state: _State) -> NoReturn:
    raise error_of(state.error, state.source, state.problems)


def error_of(error: type[ModelError], source: str, problems: Sequence[str]) -> ModelError:
    """Make one error of all problems; each of them begins with its "file:line"."""
    return error(problems[0]) if len(problems) == 1 else error(f"{source}: {len(problems)} problems", problems)

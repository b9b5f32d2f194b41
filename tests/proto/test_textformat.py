"""The text reader against protobuf's own, and everything that it refuses."""

from __future__ import annotations

import contextlib
import math
import warnings

import pytest
from google.protobuf import text_format
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from calib8.errors import CaffemodelError, PrototxtError
from calib8.proto import caffe_pb2
from calib8.proto.scalars import fields_of
from calib8.proto.textformat import MAX_DEPTH, MAX_MESSAGES, MAX_PROBLEMS, MAX_UNKNOWN, read_text

_SCALARS = {
    "int32": st.integers(-(2**31), 2**31 - 1),
    "uint32": st.integers(0, 2**32 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "float": st.floats(width=32, allow_nan=False),
    "bool": st.booleans(),
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    "bytes": st.binary(max_size=20),
}


@st.composite
def messages(draw, message_class=caffe_pb2.NetParameter, depth=0):
    """A message of any type with a few fields set to anything."""
    message = message_class()
    fields = fields_of(message.DESCRIPTOR)
    names = draw(st.lists(st.sampled_from(sorted(fields)), unique=True, max_size=4)) if fields else []
    for name in {*names, *(f.name for f in fields.values() if f.required)}:
        field = fields[name]
        if field.message is not None:
            if depth > 4:
                continue
            inner = messages(field.message._concrete_class, depth + 1)
            value = draw(st.lists(inner, max_size=3) if field.repeated else inner)
            if field.repeated:
                getattr(message, name).extend(value)
            else:
                getattr(message, name).CopyFrom(value)
            continue
        scalar = st.sampled_from(sorted(field.values.values())) if field.values else _SCALARS[field.kind]
        if field.repeated:
            getattr(message, name).extend(draw(st.lists(scalar, max_size=5)))
        else:
            setattr(message, name, draw(scalar))
    return message


def _read(text, message_class=caffe_pb2.NetParameter):
    message = message_class()
    return message, read_text(text, message, "a.prototxt")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(messages(), messages(caffe_pb2.LayerParameter)), st.booleans(), st.booleans(), st.booleans())
def test_reads_what_protobuf_writes(message, one_line, short_lists, utf8):
    text = text_format.MessageToString(
        message,
        as_one_line=one_line,
        use_short_repeated_primitives=short_lists,
        as_utf8=utf8,
        pointy_brackets=short_lists,
    )
    back, report = _read(text, type(message))
    assert back == message
    assert report.unknown_fields == ()


_PIECES = [
    *"{}<>:,;[]-#/\\'\"\n\t .", "layer", "name", "type", "bottom", "input_dim", "phase", "TEST", "1", "0x1F",
    "1e5", "1.5f", "inf", "nan", "true", '"a"', "'b'", "convolution_param", "num_output", "kernel_size",
    "weight_filler", "std", "foo", "layer {", 'name: "x"', "num_output: 3", "}", "é", "$", "99999999999",
    '"\\x41\\101"', "[a.b]",
]  # fmt: skip


@settings(max_examples=400, deadline=None)
@example("name: \"x\" ' \\ '")
@given(st.lists(st.sampled_from(_PIECES), max_size=40).map(" ".join))
def test_any_text_is_read_or_refused_and_agrees_with_protobuf(text):
    theirs = caffe_pb2.NetParameter()
    try:
        # protobuf in Python only warns of escapes that the one in C++ refuses
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "invalid escape sequence", DeprecationWarning)
            text_format.Parse(text, theirs)
        accepted = True
    except (text_format.ParseError, DeprecationWarning):
        accepted = False
    try:
        ours, report = _read(text)
    except PrototxtError as why:
        assert not accepted, why
        assert str(why).startswith("a.prototxt:")
        return
    if accepted:
        assert text_format.MessageToString(ours) == text_format.MessageToString(theirs)
        assert report.unknown_fields == ()


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200))
def test_any_characters_are_read_or_refused(text):
    with contextlib.suppress(PrototxtError):
        _read(text)


def test_forms_of_one_value():
    forms = """
      layer { name: "a" 'b' "\\x63\\144\\n" top: ["t", 'u'], bottom: "v"; loss_weight: .5f loss_weight: -inf
              loss_weight: 1. loss_weight: - 2 phase: 1 include { phase: TRAIN } include: < phase: TEST >
              convolution_param: { bias_term: False num_output: 0x10 pad: 010 } pooling_param { pool: 1 } }
      layer: [ { name: "x" }, { name: "y" } ]  # a comment without end of line"""
    net, _ = _read(forms)
    first = net.layer[0]
    assert first.name == "abcd\n"
    assert list(first.top) == ["t", "u"] and list(first.bottom) == ["v"]
    assert list(first.loss_weight) == [0.5, -math.inf, 1.0, -2.0]
    assert first.phase == caffe_pb2.TEST
    assert [x.phase for x in first.include] == [caffe_pb2.TRAIN, caffe_pb2.TEST]
    assert first.convolution_param.num_output == 16 and list(first.convolution_param.pad) == [8]
    assert not first.convolution_param.bias_term
    assert first.pooling_param.pool == caffe_pb2.PoolingParameter.AVE
    assert [x.name for x in net.layer[1:]] == ["x", "y"]


def test_unknown_fields_are_skipped_and_named_once_with_their_first_line():
    text = """layer { convolution_param { num_output: 3 foo: 1 } o { a: "}" b: [ { c: -1 }, { } ] d <e: 1> } }
layer { convolution_param { foo: 2 num_output: 4 } }
nothing: "x" 'y' ; [a.b/c.D] { e: f }
layer { name: "z" }"""
    net, report = _read(text)
    assert [x.convolution_param.num_output for x in net.layer] == [3, 4, 0]
    assert report.unknown_fields == (
        "line 1: convolution_param.foo", "line 1: layer.o", "line 3: nothing", "line 3: [a.b/c.D]",
    )  # fmt: skip
    first, second, third = report.places["layer"]
    assert [first.line, second.line, third.line] == [1, 2, 4]
    assert first.unknown == (("convolution_param", "foo"), ("o",)) and first.unknown_messages == {("o",)}
    assert second.unknown == (("convolution_param", "foo"),) and not second.unknown_messages
    assert third.unknown == ()


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("layer {\n name: 'x'\n", 3, "ends in layer, which begins in line 1: '}' is missing"),
        ("layer {\n name: 'x\n}", 2, "string that does not end"),
        ("\n}", 2, "expected a field name, found '}'"),
        ("layer {\n bottom 'x' }", 2, "layer.bottom needs a ':'"),
        ("layer { convolution_param {\n num_output: 1.5 } }", 2, "num_output expects a whole number"),
        ("layer { convolution_param { num_output: -1 } }", 1, "found -1"),
        ("layer { convolution_param { num_output: cls3x } }", 1, "found cls3x"),
        ("input_dim: 2147483648", 1, "from -2147483648 to 2147483647"),
        ("layer { convolution_param { pad: 09 } }", 1, "found 09"),
        ("layer { pooling_param {\n\n pool: SUM } }", 3, "expects one of MAX, AVE, STOCHASTIC"),
        ("layer { pooling_param { pool: 7 } }", 1, "pooling_param.pool"),
        ("layer { pooling_param { pool: 'MAX' } }", 1, "found 'MAX'"),
        ("layer { type: ReLU }", 1, 'expects a "quoted string", found ReLU'),
        ("layer { convolution_param { bias_term: 2 } }", 1, "expects true or false"),
        ("layer { relu_param { negative_slope: 010 } }", 1, "expects a number"),
        ("layer { name: 'a'\n name: 'b' }", 2, "layer.name is given twice"),
        ("layer { relu_param { }\n relu_param { } }", 2, "layer.relu_param is given twice"),
        ("layer { clip_param { min: 0 } }", 1, "clip_param lacks its required field max"),
        ("layer { relu_param: 3 }", 1, "is a message"),
        ("layer { name: 'C:\\data' }", 1, "unknown escape"),
        ("layer { name: '\\U00110000' }", 1, "unknown escape"),
        ("layer { top: ['a' 'b' 'c', ] }", 1, "layer.top needs a value"),
        ("layer {\n num: ${BATCH} }", 2, "placeholder"),
        ("layer { convolution_param { num_output: {{ n }} } }", 1, "placeholder"),
        ("layer { @LAYERS@ }", 1, "placeholder"),
        ("layer { name\uff1a 'x' }", 1, "found '\uff1a'"),
        ("layer { pooling_param { pool: FOO } }", 1, "pooling_param.pool expects one of MAX, AVE, STOCHASTIC"),
        ("layers { name: 'x' type: 4711 }", 1, "layers.type expects one of"),
    ],
)  # fmt: skip
def test_refusals_name_line_field_and_what_was_expected(text, line, words):
    with pytest.raises(PrototxtError) as caught:
        _read(text)
    assert str(caught.value).startswith(f"a.prototxt:{line}: ")
    assert words in str(caught.value)


def test_all_wrong_values_are_reported_together():
    with pytest.raises(PrototxtError) as caught:
        _read("layer { name: a\n type: b\n pooling_param { pool: X\n pool: MAX\n kernel_size: -3 } phase: NO }")
    assert [p.split(": ")[0] for p in caught.value.problems] == [f"a.prototxt:{n}" for n in (1, 2, 3, 5, 5)]


def test_long_lists_of_allowed_values_are_given_once():
    with pytest.raises(PrototxtError) as caught:
        _read("layers { type: 97 }\nlayers { type: 98 }")
    assert "CONVOLUTION" in caught.value.problems[0]
    assert caught.value.problems[1] == "a.prototxt:2: layers.type expects another value (see above), found 98"


def test_the_error_type_is_the_callers():
    with pytest.raises(CaffemodelError):
        read_text("}", caffe_pb2.NetParameter(), "w.caffemodel", CaffemodelError)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a{" * (MAX_DEPTH + 1), "nested deeper"),
        ("[a]: [" + "{b: [" * MAX_DEPTH, "nested deeper"),
        ("layer{}" * (MAX_MESSAGES + 1), "messages"),
        ("".join(f"a{n}:1 " for n in range(MAX_UNKNOWN + 1)), "different unknown fields"),
        ("input_dim:x " * 1000, f"stopped after {MAX_PROBLEMS} problems"),
        ("name: '" + "\\n" * 600_000 + "'", "does not end"),
        ("input_dim: " + "1" * 1_000_000, "expects a whole number"),
        ("layer { relu_param { negative_slope: " + "1" * 1_000_000 + " } }", "expects a number"),
        ("-" * 1_000_000, "expected a field name"),
        ('"' * 1_000_000, "expected a field name"),
        ("name:" + '""' * 20_000, "expected a field name"),
    ],
    ids=lambda value: value[:12],
)
def test_bombs_are_refused(text, words):
    with pytest.raises(PrototxtError, match=words):
        _read(text)


@pytest.mark.parametrize("text", ["input_dim:1 " * 5000, "a:1 " * 5000, "input_dim:[" + "1," * 9000 + "1]"])
def test_the_number_of_values_is_bounded(text):
    read_text(text, caffe_pb2.NetParameter(), "a.prototxt")
    with pytest.raises(PrototxtError, match="more than 10000 names, values and signs"):
        read_text(text, caffe_pb2.NetParameter(), "a.prototxt", max_tokens=10_000)

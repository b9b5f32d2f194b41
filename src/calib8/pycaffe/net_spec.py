"""caffe.NetSpec: networks written in Python.

::

    n = caffe.NetSpec()
    n.data = L.Input(shape=dict(dim=[1, 3, 32, 32]))
    n.conv = L.Convolution(n.data, kernel_size=3, num_output=8)
    n.relu = L.ReLU(n.conv, in_place=True)
    print(n.to_proto())

A layer has the name under which its first top is assigned to the NetSpec; layers that are not assigned are called
after their type, with a number: Convolution1, Convolution2.
Source: BVLC/caffe, python/caffe/net_spec.py.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from calib8.errors import OptionError
from calib8.proto import caffe_pb2


class Top:
    """One of the tops of a layer."""

    def __init__(self, fn: Function, n: int) -> None:
        self.fn = fn
        self.n = n

    def to_proto(self) -> caffe_pb2.NetParameter:
        """Write the network that computes this top."""
        return to_proto(self)


class Function:
    """A layer: its type, its bottoms, its parameters.

    Args:
        type_name: the layer's type.
        inputs: tops of other layers.
        params: fields of the layer, or of the type's own parameter message; `ntop` is the number of tops (1),
            `in_place` writes them into the bottoms.

    Raises:
        TypeError: an input that is no Top.
    """

    def __init__(self, type_name: str, inputs: tuple[Any, ...], params: dict[str, Any]) -> None:
        for index, top in enumerate(inputs):
            if not isinstance(top, Top):
                raise TypeError(f"{type_name} input {index} is not a Top (type is {type(top)})")
        self.type_name = type_name
        self.inputs: tuple[Top, ...] = inputs
        self.params = dict(params)
        self.ntop: int = self.params.pop("ntop", 1)
        self.in_place: bool = self.params.pop("in_place", False)
        self.tops = tuple(Top(self, n) for n in range(self.ntop))


class _Writer:
    """The layers of a network in the order in which they are needed."""

    def __init__(self, names: dict[Top | Function, str]) -> None:
        self._names = names
        self._numbers: Counter[str] = Counter()
        self.layers: OrderedDict[Function, caffe_pb2.LayerParameter] = OrderedDict()

    def add(self, fn: Function) -> None:
        """Write a layer behind those that it reads. Deep networks would be too much for a recursion."""
        waiting = [fn]
        while waiting:
            layer = waiting[-1]
            missing = next((top.fn for top in layer.inputs if top.fn not in self.layers), None)
            if layer in self.layers:
                waiting.pop()
            elif missing is not None:
                waiting.append(missing)
            else:
                self.layers[layer] = self._write(waiting.pop())

    def _write(self, fn: Function) -> caffe_pb2.LayerParameter:
        layer = caffe_pb2.LayerParameter(type=fn.type_name)
        layer.bottom.extend(self.layers[top.fn].top[top.n] for top in fn.inputs)
        layer.top.extend(list(layer.bottom) if fn.in_place else [self._name_of(top) for top in fn.tops])
        layer.name = self._name_of(fn.tops[0] if fn.tops else fn)
        for field, value in fn.params.items():
            _set_param(layer, field, value)
        return layer

    def _name_of(self, thing: Top | Function) -> str:
        if thing not in self._names:
            kind = thing.type_name if isinstance(thing, Function) else thing.fn.type_name
            self._numbers[kind] += 1
            self._names[thing] = f"{kind}{self._numbers[kind]}"
        return self._names[thing]


def to_proto(*tops: Top) -> caffe_pb2.NetParameter:
    """Write the network that computes these tops."""
    writer = _Writer({})
    for top in tops:
        writer.add(top.fn)
    return caffe_pb2.NetParameter(layer=writer.layers.values())


class NetSpec:
    """Tops by name: assign them as attributes or as items."""

    tops: OrderedDict[str, Top | Function]

    def __init__(self) -> None:
        super().__setattr__("tops", OrderedDict())

    def __setattr__(self, name: str, value: Top | Function) -> None:
        self.tops[name] = value

    def __getattr__(self, name: str) -> Any:
        if name not in self.tops:
            raise AttributeError(f"the NetSpec has no top {name!r}")
        return self.tops[name]

    def __setitem__(self, name: str, value: Top | Function) -> None:
        self.tops[name] = value

    def __getitem__(self, name: str) -> Any:
        return self.tops[name]

    def to_proto(self) -> caffe_pb2.NetParameter:
        """Write the network of all layers that the assigned tops need."""
        writer = _Writer({top: name for name, top in self.tops.items()})
        for top in self.tops.values():
            writer.add(top.fn if isinstance(top, Top) else top)
        return caffe_pb2.NetParameter(layer=writer.layers.values())


class _Layers:
    """`caffe.layers`: every attribute makes layers of the type of its name."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def layer_fn(*args: Any, **kwargs: Any) -> Any:
            """Returns the top; with `ntop` a tuple of tops, or for 0 the layer itself."""
            fn = Function(name, args, kwargs)
            return {0: fn, 1: fn.tops[0] if fn.tops else None}.get(fn.ntop, fn.tops)

        return layer_fn


class _Params:
    """`caffe.params`: `params.Pooling.MAX` is that constant of PoolingParameter."""

    def __getattr__(self, name: str) -> Any:
        return getattr(caffe_pb2, f"{name}Parameter")


layers = _Layers()
params = _Params()


def _param_fields() -> dict[str, str]:
    """Find the field of LayerParameter for each kind of layer: "Convolution" has convolution_param."""
    fields = caffe_pb2.LayerParameter.DESCRIPTOR.fields
    return {
        f.message_type.name.removesuffix("Parameter"): f.name
        for f in fields
        if f.name.endswith("_param") and f.message_type is not None
    }


_PARAM_FIELDS = _param_fields()


def _set_param(layer: caffe_pb2.LayerParameter, field: str, value: object) -> None:
    """Set a field of the type's own message, or else of the layer."""
    own = None if field.endswith("param") else _PARAM_FIELDS.get(layer.type)
    message = layer if own is None or field not in _field_names(getattr(layer, own)) else getattr(layer, own)
    try:
        _assign(message, field, value)
    except (AttributeError, TypeError, ValueError) as why:
        raise OptionError(f"layer {layer.name!r} ({layer.type}) cannot have {field}={value!r}: {why}") from None


def _field_names(message: Message) -> list[str]:
    return [field.name for field in message.DESCRIPTOR.fields]


def _assign(message: Message, field: str, value: object) -> None:
    """Make messages of dicts and repeated fields of lists; one value for a repeated field is a list of one."""
    target = getattr(message, field)
    if hasattr(target, "extend"):
        items = value if isinstance(value, list | tuple) else [value]
        for item in items:
            if isinstance(item, dict):
                added = target.add()
                for name, part in item.items():
                    _assign(added, name, part)
            else:
                target.append(item)
    elif isinstance(value, dict):
        for name, part in value.items():
            _assign(target, name, part)
    else:
        setattr(message, field, value)

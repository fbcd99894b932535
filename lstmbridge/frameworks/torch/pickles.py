"""A pickle read as data: no name in it is looked up, nothing is imported, nothing is called.

The machine knows the opcodes of every protocol, as `pickletools` reads them. A name becomes a `Name`; what is made by
calling one becomes what a table has for that name, else an `Inert` thing that only says what it would have been. No
class, function or method is ever on the machine's stack, so no pickle can reach one.

What a pickle may ask for is bounded by its size: a string is never longer than the bytes it is read from, containers
are counted, and what is copied is counted too.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import IO, Any

from lstmbridge.errors import FileError

__all__ = ["Inert", "Machine", "Name", "Rebuild"]

#: Of what a table makes from the arguments of a call.
Rebuild = Callable[..., Any]

#: So many containers and memo entries any pickle may have, and one more for so many bytes of its file.
_CONTAINERS, _BYTES_EACH = 250_000, 8
_LONGEST_NAME = 1000
_MOST_ARGUMENTS = 32
_LARGEST_KEY = 2**60


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that a pickle names."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class Inert:
    """What stands for an object of a class that nobody looked up.

    kind       the class or function that would have made it
    arguments  what that was to be called with
    state      the attributes that were to be set on it
    """

    kind: Name
    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __str__(self) -> str:
        return str(self.kind)


class Machine:
    """Reads one pickle from a stream, which then stands behind it.

    stream      of bytes; asked for more than it has, it gives what it has
    who         names the file in messages
    size        of the file, in bytes: the measure of what the pickle may ask for
    rebuild     (module, name) -> what makes a value from the arguments of a call
    persistent  what makes a value of a persistent id
    """

    def __init__(
        self,
        stream: IO[bytes],
        *,
        who: str,
        size: int,
        rebuild: Mapping[tuple[str, str], Rebuild],
        persistent: Callable[[Any], Any],
    ) -> None:
        self.stream, self.who, self.size = stream, who, size
        self.rebuild, self.persistent = rebuild, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.containers = _CONTAINERS + size // _BYTES_EACH
        self.copies = size

    def run(self) -> Any:
        """The value of the pickle. Errors: FileError for what is not data; any error of Python's for a broken one."""
        for opcode, argument, _ in pickletools.genops(self.stream):
            name = opcode.name
            if name in _COUNTED:
                self._count()
            if name in _VALUES:
                self.stack.append(argument)
            elif name in _STEPS:
                _STEPS[name](self, argument)
            elif name not in _NOTHING:
                raise FileError(f"{self.who}: its pickle uses {name}", "expected what torch.save writes")
        return self.stack.pop()

    def spend(self, count: int) -> None:
        """Counts what is copied. Errors: FileError for more than the file has bytes."""
        self.copies -= count
        if self.copies < 0:
            raise FileError(f"{self.who}: its pickle copies the same data over and over", "expected each once")

    def _count(self) -> None:
        self.containers -= 1
        if self.containers < 0:
            raise FileError(
                f"{self.who}: its pickle holds more objects than its {self.size} bytes can be for",
                "save the state dict alone: torch.save(module.state_dict(), path)",
            )

    def since_mark(self) -> list[Any]:
        """What lies above the last mark, taken from the stack."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def name(self, module: Any, name: Any) -> Name:
        """The name that two strings are."""
        if type(module) is not str or type(name) is not str or len(module) + len(name) > _LONGEST_NAME:
            raise FileError(f"{self.who}: a name in its pickle that is none")
        return Name(_text(module), _text(name))

    def call(self, function: Any, arguments: Any) -> Any:
        """What stands for `function(*arguments)`. Errors: FileError for what nobody could call."""
        if isinstance(function, Inert):
            return Inert(function.kind)
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise FileError(f"{self.who}: its pickle calls a {type(function).__name__}", "expected plain data")
        key = (function.module, function.name)
        if key in _PLAIN:
            return _PLAIN[key](self, function, arguments)
        if key not in self.rebuild:
            return Inert(function, arguments)
        if len(arguments) > _MOST_ARGUMENTS:
            raise FileError(f"{self.who}: {len(arguments)} arguments for {function}")
        return self.rebuild[key](*arguments)

    def fill(self, target: Any, pairs: Iterable[tuple[Any, Any]]) -> None:
        """Puts items into a dict; those of a placeholder are dropped."""
        if type(target) is dict:
            for key, value in pairs:
                target[_key(key)] = value
        elif not isinstance(target, Inert):
            raise FileError(f"{self.who}: its pickle puts items into a {type(target).__name__}")

    def extend(self, target: Any, items: list[Any]) -> None:
        """Appends items to a list; those of a placeholder are dropped."""
        if type(target) is list:
            target.extend(items)
        elif not isinstance(target, Inert):
            raise FileError(f"{self.who}: its pickle appends to a {type(target).__name__}")


def _text(value: str) -> str:
    """`value` as text that can be printed: half a surrogate pair becomes a question mark."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "replace").decode()
    return value


def _key(key: Any) -> Any:
    """`key` where it is short text or a small number, else a placeholder.

    Any other key could take forever to hash, or exhaust the stack (a tuple in a tuple in a tuple ...).
    """
    if type(key) is str and len(key) <= _LONGEST_NAME:
        return _text(key)
    if key is None or type(key) in (bool, float, bytes) or (type(key) is int and abs(key) < _LARGEST_KEY):
        return key
    return Inert(Name("builtins", type(key).__name__))


# ---- the opcodes, by pickletools' names


def _pairs(items: list[Any]) -> Iterable[tuple[Any, Any]]:
    return zip(items[::2], items[1::2], strict=True)


def _mark(machine: Machine, _: Any) -> None:
    machine.marks.append(len(machine.stack))


def _pop(machine: Machine, _: Any) -> None:
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()  # protocol 0: a mark is popped as a value is
    else:
        machine.stack.pop()


def _put(machine: Machine, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


def _tuple_of(count: int) -> Callable[[Machine, Any], None]:
    def step(machine: Machine, _: Any) -> None:
        items = tuple(machine.stack[-count:])
        if len(items) < count:
            raise ValueError("a tuple of more than there is")
        machine.stack[-count:] = [items]

    return step


def _append(machine: Machine, _: Any) -> None:
    item = machine.stack.pop()
    machine.extend(machine.stack[-1], [item])


def _appends(machine: Machine, _: Any) -> None:
    items = machine.since_mark()
    machine.extend(machine.stack[-1], items)


def _set_item(machine: Machine, _: Any) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.fill(machine.stack[-1], [(key, value)])


def _set_items(machine: Machine, _: Any) -> None:
    items = machine.since_mark()
    machine.fill(machine.stack[-1], _pairs(items))


def _dict(machine: Machine, _: Any) -> None:
    new: dict[Any, Any] = {}
    machine.fill(new, _pairs(machine.since_mark()))
    machine.stack.append(new)


def _set(machine: Machine, _: Any) -> None:
    machine.stack.append(Inert(Name("builtins", "set")))


def _frozen_set(machine: Machine, _: Any) -> None:
    machine.since_mark()
    machine.stack.append(Inert(Name("builtins", "frozenset")))


def _global(machine: Machine, both: str) -> None:
    module, _, name = both.partition(" ")
    machine.stack.append(machine.name(module, name))


def _stack_global(machine: Machine, _: Any) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.name(module, name))


def _reduce(machine: Machine, _: Any) -> None:
    arguments, function = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.call(function, arguments))


def _new(machine: Machine, _: Any) -> None:
    _keywords, arguments, kind = machine.stack.pop(), machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.call(kind, arguments))


def _inst(machine: Machine, both: str) -> None:
    arguments = tuple(machine.since_mark())
    _global(machine, both)
    machine.stack.append(machine.call(machine.stack.pop(), arguments))


def _obj(machine: Machine, _: Any) -> None:
    kind, *arguments = machine.since_mark()
    machine.stack.append(machine.call(kind, tuple(arguments)))


def _build(machine: Machine, _: Any) -> None:
    """Keeps the state of a placeholder; drops the attributes of a dict (torch keeps a state dict's versions there)."""
    state, target = machine.stack.pop(), machine.stack[-1]
    if isinstance(target, Inert):
        target.state = state
    elif type(target) is not dict:
        raise FileError(f"{machine.who}: sets attributes on a {type(target).__name__}", "expected a state dict")


_VALUES = frozenset(
    {
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "STRING", "BINSTRING", "SHORT_BINSTRING",
        "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE",
        "BINUNICODE8", "FLOAT", "BINFLOAT",
    }
)  # fmt: skip
_NOTHING = frozenset({"PROTO", "FRAME", "STOP"})

_STEPS: Mapping[str, Callable[[Machine, Any], None]] = {
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "EMPTY_SET": _set,
    "FROZENSET": _frozen_set,
    "MARK": _mark,
    "POP": _pop,
    "POP_MARK": lambda machine, _: machine.since_mark().clear(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "GET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.stack.append(machine.memo[index]),
    "PUT": _put,
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "MEMOIZE": lambda machine, _: _put(machine, len(machine.memo)),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.since_mark())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "LIST": lambda machine, _: machine.stack.append(machine.since_mark()),
    "DICT": _dict,
    "APPEND": _append,
    "APPENDS": _appends,
    "ADDITEMS": _appends,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new,
    "INST": _inst,
    "OBJ": _obj,
    "BUILD": _build,
    "PERSID": lambda machine, key: machine.stack.append(machine.persistent(key)),
    "BINPERSID": lambda machine, _: machine.stack.append(machine.persistent(machine.stack.pop())),
}

#: What makes a container, or an entry of the memo.
_COUNTED = frozenset(
    {
        "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "FROZENSET", "MARK", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
        "LIST", "DICT", "GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "INST", "OBJ", "PUT", "BINPUT",
        "LONG_BINPUT", "MEMOIZE",
    }
)  # fmt: skip


# ---- plain data that pickles make by a call


def _mapping(machine: Machine, kind: Name, arguments: tuple[Any, ...]) -> Any:
    """A dict of the items, where a list of pairs or a dict gives any."""
    given = arguments[0] if arguments else ()
    items = list(given.items()) if type(given) is dict else given if type(given) in (list, tuple) else ()
    machine.spend(len(items))
    new: dict[Any, Any] = {}
    machine.fill(new, ((key, value) for key, value in items))
    return new


def _encoded(machine: Machine, kind: Name, arguments: tuple[Any, ...]) -> Any:
    """Bytes, which protocol 2 writes as text of the same codes."""
    text, *encoding = arguments
    if type(text) is not str or encoding not in (["latin1"], ["latin-1"]):
        return Inert(kind)
    machine.spend(len(text))
    return text.encode("latin-1")


def _sequence(machine: Machine, kind: Name, arguments: tuple[Any, ...]) -> Any:
    """A tuple of the items."""
    [items] = arguments or [()]
    if type(items) not in (list, tuple):
        return Inert(kind)
    machine.spend(len(items))
    return tuple(items)


def _instance(machine: Machine, kind: Name, arguments: tuple[Any, ...]) -> Any:
    """An object of the class that is the first argument."""
    return Inert(arguments[0] if arguments and isinstance(arguments[0], Name) else kind)


def _empty(machine: Machine, kind: Name, arguments: tuple[Any, ...]) -> Any:
    """A dict whose items follow."""
    return {}


_PLAIN: Mapping[tuple[str, str], Callable[[Machine, Name, tuple[Any, ...]], Any]] = {
    ("collections", "OrderedDict"): _mapping,
    ("collections", "Counter"): _mapping,
    ("collections", "defaultdict"): _empty,
    ("builtins", "dict"): _mapping,
    ("__builtin__", "dict"): _mapping,
    ("torch", "Size"): _sequence,
    ("_codecs", "encode"): _encoded,
    ("copyreg", "_reconstructor"): _instance,
    ("copy_reg", "_reconstructor"): _instance,
    ("copyreg", "__newobj__"): _instance,
    ("copyreg", "__newobj_ex__"): _instance,
}

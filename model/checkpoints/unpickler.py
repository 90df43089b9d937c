"""Pickles read by a machine of their own, which imports nothing and calls nothing that a pickle names.

Bytes enter. Plain values, tensors as `StoredTensor` and stand-ins for all else leave. `pickle.Unpickler` with an own
`find_class` would do less: it reserves memory for numbers in the file (a memo index, the length of a bytearray), hashes
what a stranger wants hashed, and stand-ins have to be real classes.
"""

import io
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

from model.checkpoints.stored import Malformed

MAX_PICKLE_BYTES = 64 << 20
"""Of the pickle alone, in which tensors take some 150 bytes each; their content lies beside it."""
MAX_WORK = 2_000_000
"""Opcodes, and what is looked at again for them: about forty thousand tensors."""
_MAX_NAME_BYTES = 1024


class Name(NamedTuple):
    """What a pickle would import."""

    module: str
    name: str


class StandIn:
    """Takes the place of what is not built: whatever is done to it, it keeps its named items and its state."""

    __slots__ = ("items", "state")

    def __init__(self) -> None:
        self.items: dict[str, Any] = {}
        self.state: Any = None


Builders = dict[Name, Callable[[tuple], Any]]
"""What becomes of calls, by the name that is called: our own functions on what the pickle gives as arguments."""


class Pickle(NamedTuple):
    """One pickle, read."""

    value: Any
    end: int
    """Where it ends."""


def unpickle(
    content: bytes, start: int = 0, builders: Builders | None = None, persistent: Callable[[Any], Any] | None = None
) -> Pickle:
    """Return what a pickle holds: of mappings only entries with text as their key; raises Malformed or ValueError."""
    file = io.BytesIO(content)
    file.seek(start)
    machine = _Machine(file, builders or {}, persistent)
    value = machine.run()
    return Pickle(value, file.tell())


class _Machine:
    def __init__(self, file: io.BytesIO, builders: Builders, persistent: Callable[[Any], Any] | None):
        self._file = file
        self._builders = builders
        self._persistent = persistent
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._work = 0

    def run(self) -> Any:
        while (code := self._file.read(1)) != b".":
            if code not in _HANDLERS:
                raise _unexpected(f"opcode {code!r}" if code else "its end in the middle")
            self.spend(1)
            read, handle = _HANDLERS[code]
            handle(self, read(self._file) if read else None)
        return self.pop()

    def spend(self, work: int) -> None:
        self._work += work
        if self._work > MAX_WORK:
            raise Malformed(f"expected a pickle of at most {MAX_WORK} steps, found more; give the weights alone")

    def pop(self) -> Any:
        if not self._stack:
            raise _unexpected("an empty stack")
        return self._stack.pop()

    def pop_several(self, num: int) -> tuple:
        return tuple(reversed([self.pop() for _ in range(num)]))

    def pop_marked(self) -> list[Any]:
        if not self._below:
            raise _unexpected("no mark")
        marked, self._stack = self._stack, self._below.pop()
        return marked

    def top(self) -> Any:
        if not self._stack:
            raise _unexpected("an empty stack")
        return self._stack[-1]

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def mark(self, _: None) -> None:
        self._below.append(self._stack)
        self._stack = []

    def drop(self, _: None) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self.pop_marked()

    def store(self, index: int) -> None:
        self._memo[index] = self.top()

    def memoize(self, _: None) -> None:
        self._memo[len(self._memo)] = self.top()

    def recall(self, index: int) -> None:
        if index not in self._memo:
            raise _unexpected("a value that was never stored")
        self.push(self._memo[index])

    def push_name(self, name: Name) -> None:
        self.push(name)

    def stack_name(self, _: None) -> None:
        module, name = self.pop_several(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise _unexpected("a name that is no text")
        self.push(Name(module, name))

    def call(self, _: None) -> None:
        function, arguments = self.pop_several(2)
        self.push(self.built(function, arguments))

    def call_named(self, _: None) -> None:
        function, arguments, _keywords = self.pop_several(3)
        self.push(self.built(function, arguments))

    def built(self, function: Any, arguments: Any) -> Any:
        builder = self._builders.get(function) if isinstance(function, Name) else None
        if builder is None or not isinstance(arguments, tuple):
            return StandIn()
        self.spend(len(arguments) + sum(len(one) for one in arguments if isinstance(one, list | tuple)))
        return builder(arguments)

    def build(self, _: None) -> None:
        target, state = self.pop_several(2)
        if isinstance(target, StandIn):
            target.state = state
        self.push(target)

    def append(self, _: None) -> None:
        value = self.pop()
        self._extend([value])

    def append_several(self, _: None) -> None:
        self._extend(self.pop_marked())

    def _extend(self, values: list[Any]) -> None:
        target = self.top()
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, StandIn):
            raise _unexpected("items for what takes none")

    def set_one(self, _: None) -> None:
        key, value = self.pop_several(2)
        self._set([key, value])

    def set_several(self, _: None) -> None:
        self._set(self.pop_marked())

    def _set(self, values: list[Any]) -> None:
        target = self.top()
        entries = target.items if isinstance(target, StandIn) else target
        if not isinstance(entries, dict) or len(values) % 2:
            raise _unexpected("entries for what takes none")
        put_text_keys(entries, zip(values[::2], values[1::2], strict=True))

    def find_persistent(self, _: None) -> None:
        if self._persistent is None:
            raise _unexpected("a reference to something outside of it")
        saved = self.pop()
        self.spend(len(saved) if isinstance(saved, tuple) else 0)
        self.push(self._persistent(saved))


def put_text_keys(entries: dict[str, Any], pairs: Any) -> None:
    """Add the entries whose key is text; the others name no tensor, and nothing else of a stranger's is hashed."""
    entries.update((key, value) for key, value in pairs if isinstance(key, str))


def _unexpected(what: str) -> Malformed:
    return Malformed(f"expected a pickle as torch.save writes it, found {what}; save it again with torch.save")


def _read_name(file: io.BytesIO) -> Name:
    lines = [file.readline(_MAX_NAME_BYTES) for _ in range(2)]
    if not all(line.endswith(b"\n") for line in lines):
        raise _unexpected("a name without an end")
    module, name = (line[:-1].decode() for line in lines)
    return Name(module, name)


def _constant(make: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(make())


def _tuple_of(num: int) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(machine.pop_several(num))


def _ignore(machine: _Machine, _: Any) -> None:
    pass


def _pop_marked(machine: _Machine, _: Any) -> None:
    machine.pop_marked()


def _frozen_set(machine: _Machine, _: Any) -> None:
    machine.pop_marked()
    machine.push(StandIn())


_BY_NAME: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _ignore, "FRAME": _ignore, "MARK": _Machine.mark, "POP": _Machine.drop,
    "POP_MARK": _pop_marked,
    "NONE": _Machine.push, "NEWTRUE": _constant(lambda: True), "NEWFALSE": _constant(lambda: False),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"), _Machine.push),
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _Machine.push),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), _Machine.push),
    "EMPTY_TUPLE": _constant(tuple), "TUPLE1": _tuple_of(1), "TUPLE2": _tuple_of(2), "TUPLE3": _tuple_of(3),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_marked())),
    "EMPTY_LIST": _constant(list), "LIST": lambda machine, _: machine.push(machine.pop_marked()),
    "APPEND": _Machine.append, "APPENDS": _Machine.append_several,
    "EMPTY_DICT": _constant(dict), "SETITEM": _Machine.set_one, "SETITEMS": _Machine.set_several,
    "EMPTY_SET": _constant(StandIn), "ADDITEMS": _Machine.append_several,
    "FROZENSET": _frozen_set,
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.store), "MEMOIZE": _Machine.memoize,
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.recall),
    "GLOBAL": _Machine.push_name, "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.call, "NEWOBJ": _Machine.call, "NEWOBJ_EX": _Machine.call_named, "BUILD": _Machine.build,
    "BINPERSID": _Machine.find_persistent,
}  # fmt: skip
"""What torch.save and its pickle protocols 2 to 5 write.

Not here, so refused: protocol 0's text opcodes, INST and OBJ, codes of copyreg's registry, buffers from outside.
"""


def _handlers() -> dict[bytes, tuple[Callable[[Any], Any] | None, Callable[[_Machine, Any], None]]]:
    found: dict[bytes, tuple[Callable[[Any], Any] | None, Callable[[_Machine, Any], None]]] = {}
    for opcode in pickletools.opcodes:
        if opcode.name in _BY_NAME:
            read = _read_name if opcode.name == "GLOBAL" else opcode.arg.reader if opcode.arg else None
            found[opcode.code.encode("latin-1")] = (read, _BY_NAME[opcode.name])
    return found


_HANDLERS = _handlers()

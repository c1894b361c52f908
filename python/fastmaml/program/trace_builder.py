"""What stands for a tensor while a model is traced, and the program that grows from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from .graph import INPUT, Op, Program, Slot


class TraceError(ValueError):
    """The model cannot be written as a program; the message names the module and the operation."""


class SampleCount:
    """The number of samples n: known when a program runs, not when a model is traced."""


SAMPLES = SampleCount()


@dataclass(frozen=True)
class Parameter:
    """A parameter of the model; `index` counts `named_parameters()`."""

    index: int
    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor of the model that is no parameter: a buffer, or a plain attribute."""

    name: str
    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def is_scalar(self) -> bool:
        """Whether it can stand for a Python number: one number that nothing differentiates."""
        return self.tensor.dim() == 0 and not self.tensor.requires_grad


@dataclass(eq=False)
class Storage:
    """The memory that a tensor and its views share; `version` counts in-place operations."""

    version: int = 0


@dataclass(eq=False)
class Value:
    """A tensor computed from the input: what it holds now is value `index` of the program."""

    index: int
    shape: tuple[int, ...]
    """Without the sample axis, which is always axis 0 of the tensor."""
    storage: Storage = field(default_factory=Storage)
    version: int = 0
    """Of the storage when `index` was last known to be what it holds."""

    def alias(self) -> Value:
        """Another tensor on the same memory."""
        return replace(self)

    def copy(self) -> Value:
        """A tensor of the same numbers on memory of its own."""
        return Value(self.index, self.shape)


def describe(operand: object) -> str:
    """An operand in the words of an error message."""
    if isinstance(operand, Value):
        return f"a value of shape {format_shape(operand.shape)}"
    if isinstance(operand, Parameter):
        return f"parameter '{operand.name}'"
    if isinstance(operand, Constant):
        return f"tensor '{operand.name}' (a buffer or attribute of shape {list(operand.shape)})"
    if isinstance(operand, SampleCount):
        return "the number of samples"
    return repr(operand)


def format_shape(shape: Sequence[int]) -> str:
    """A value's shape with its sample axis, as in "[n, 784]"."""
    return f"[{', '.join(('n', *map(str, shape)))}]"


class ProgramBuilder:
    """Collects the ops of a model in the order in which its forward calls them."""

    def __init__(
        self, sample_shape: tuple[int, ...], parameters: Iterable[tuple[str, Tensor]]
    ) -> None:
        self.parameters = [
            Parameter(index, name, tuple(tensor.shape))
            for index, (name, tensor) in enumerate(parameters)
        ]
        self.input = Value(INPUT, sample_shape)
        self.scalars: dict[Tensor, float] = {}
        """The numbers that were read from tensors of the model."""
        self._shapes = [sample_shape]
        self._ops: list[Op] = []
        self._dropouts = 0

    def read(self, operand: object) -> Value:
        """`operand`, which must be a value and still hold what the model computed into it."""
        if not isinstance(operand, Value):
            raise TraceError(f"wants a value computed from the input, got {describe(operand)}")
        if operand.version != operand.storage.version:
            raise TraceError(
                "reads a tensor that an in-place operation overwrote through another view of its "
                "memory; use the operation that is not in-place"
            )
        return operand

    def emit(
        self,
        kind: str,
        *inputs: Value,
        shape: tuple[int, ...] | None = None,
        parameters: tuple[Parameter | None, ...] = (),
        **attributes: float | int | None,
    ) -> Value:
        """Append an op and return its output, of the first input's shape unless `shape` is given.

        Inputs have been `read`.
        """
        output = Value(len(self._shapes), inputs[0].shape if shape is None else shape)
        self._shapes.append(output.shape)
        slots = tuple(None if p is None else p.index for p in parameters)
        indices = tuple(value.index for value in inputs)
        self._ops.append(Op(kind, indices, output.index, slots, attributes))
        return output

    def reshape(self, value: Value, shape: tuple[int, ...]) -> Value:
        """The numbers of a value that was `read`, in another shape, on the same memory."""
        if shape == value.shape:
            return value.alias()
        index = self.emit("reshape", value, shape=shape).index
        return Value(index, shape, value.storage, value.version)

    def overwrite(self, target: object, result: Value) -> Value:
        """The in-place form of an operation: `target` now holds `result`, its views are stale."""
        target = self.read(target)
        if result.shape != target.shape:
            raise TraceError(
                f"writes {describe(result)} in-place into {describe(target)}; the shapes must agree"
            )
        if result.index != target.index:
            target.index = result.index
            target.storage.version += 1
            target.version = target.storage.version
        return target

    def unscaled(self, value: Value) -> tuple[float, Value]:
        """(f, x) with value = f x: undoes the scale that a value comes from."""
        op = self._ops[value.index - 1] if value.index != INPUT else None
        if op is None or op.kind != "scale":
            return 1.0, value
        return float(op.attributes["factor"] or 0.0), Value(op.inputs[0], value.shape)

    def next_stream(self) -> int:
        """A number for one more dropout."""
        self._dropouts += 1
        return self._dropouts - 1

    def build(self, output: Value) -> Program:
        """The program of what `output` needs: no other op, value or slot is kept."""
        needed, ops = {INPUT, output.index}, []
        for op in reversed(self._ops):
            if op.output in needed:
                needed.update(op.inputs)
                ops.append(op)
        ops.reverse()
        used = {slot for op in ops for slot in op.parameters if slot is not None}
        value_of = {old: new for new, old in enumerate(sorted(needed))}
        slot_of = {None: None} | {old: new for new, old in enumerate(sorted(used))}
        return Program(
            ops=tuple(
                replace(
                    op,
                    inputs=tuple(value_of[value] for value in op.inputs),
                    output=value_of[op.output],
                    parameters=tuple(slot_of[slot] for slot in op.parameters),
                )
                for op in ops
            ),
            values=tuple(self._shapes[value] for value in sorted(needed)),
            slots=tuple(
                Slot(self.parameters[slot].name, self.parameters[slot].shape)
                for slot in sorted(used)
            ),
            output=value_of[output.index],
        )

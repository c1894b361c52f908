"""Executors: each runs an `InnerLoop` on `Inputs`, in its own way, to the same numbers.

An executor is a module of this package with

``refusal(loop, inputs) -> str | None``
    why it cannot run this call, or None.
``run(loop, inputs, *, adapted=False, cotangents=None, wanted=frozenset()) -> Outputs``
    the inner loop of every task; with `cotangents` also the gradients of the keys `wanted`.
``hvp(loop, inputs, vectors) -> tuple[Tensor | None, ...]``
    H u per task at the initial parameters: H the Hessian of the support loss by the adapted
    slots, `vectors` [T, *shape] one a slot (None where it is not adapted); the same back.
where much can be prepared for all calls with the same loop and inputs of the same shapes,

``recipe(loop, inputs, *, adapted=False, cotangents=None, wanted=frozenset())``
    an object whose method ``run(tensors, seed, cotangents) -> Outputs`` takes the tensors of one
    such call, in the order of `Inputs.flat`.

and, where it computes the four functions of every op itself,

``passes(program, point, *, seed=0, task=0, pass_index=0) -> Passes``
    the four functions of a program for one task, as the tests check them.
``loss_passes(loss, point) -> LossPasses``
    the same of a loss.
"""

from . import generic, native, reference

__all__ = ["generic", "native", "reference"]

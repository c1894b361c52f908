"""The inner loop and its derivatives as functions of tensors, batched over tasks.

What all functions share:

Data. Axis 0 of every data tensor is the task axis T, axis 1 the samples of a task. They may have
any strides, be expanded, and require grad. A task may have fewer samples than the tensor holds:
`support_size` and `query_size` say how many are real, and the others are never read.

Parameters. The model's own, unless `parameters` overrides them by name, with [*shape] for all
tasks or [T, *shape] for each. Parameters with requires_grad=False in the model are frozen: all
tasks share them, and the inner loop leaves them alone. Tied parameters adapt together. All are
of one float dtype and on one device, and so are the data.

Models. One that can be traced runs as its ops. Any other is called as it is, by the generic
executor: samples may then hold integers and be numbers without an axis ([T, n]), the model may
return any tree of tensors, and a parameter that forward does not read gets a gradient of zero.
What such a forward writes to its modules is undone; what it draws at random, it draws from
torch's generators as the call's seed says.

Derivatives. The results of `adapt`, `meta_loss`, `sgd_step` and `predict` can be differentiated
once, in reverse mode, by every float tensor that they read: parameters, rates, inputs, float
targets and sample weights; those of `hvp` by its vector alone, any number of times. All other
derivatives raise `DerivativeOrderError`, in torch.autograd as in torch.func.

Modes. BatchNorm takes the statistics of each task's batch, in training and in evaluation, and its
buffers are left alone. Dropout acts where its module is in training, with masks that differ
between tasks and between passes. Under autocast all runs in float32, with a warning. Under
torch.compile the functions break the graph and run as they are. A CUDA graph that is captured
replays the masks of its capture.

Errors. What shapes and types do not tell, a class that does not exist or a rate that is NaN, is
looked for on the CPU alone: on a GPU a look would wait for the device.
"""

from .autograd import DerivativeOrderError
from .hessian import hvp
from .inner_loop import MetaLoss, adapt, meta_loss, plan, predict, sgd_step

__all__ = [
    "DerivativeOrderError",
    "MetaLoss",
    "adapt",
    "hvp",
    "meta_loss",
    "plan",
    "predict",
    "sgd_step",
]

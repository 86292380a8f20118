"""A recorder of explanations that works on any device: a tape of operators, played on tensors that stay in place."""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS = ("item", "_local_scalar_dense", "nonzero", "equal", "is_nonzero", "_unique2")


class _Tape(TorchDispatchMode):
    """Keeps every operator call with the tensors that it read and wrote; reads of values fail, as on a GPU."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        if name in READS:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        result = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, result))
        return result


class Recording:
    """Plays the calls again, and copies what each returns to where it lay before."""

    def __init__(self, calls):
        self.calls, self.replays = calls, 0
        self.bytes = sum(leaf.nbytes for call in calls for leaf in tree_leaves(call[3]) if hasattr(leaf, "nbytes"))

    def replay(self):
        self.replays += 1
        for function, args, kwargs, result in self.calls:
            again = function(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.detach().copy_(new)

    def in_turn(self):
        return contextlib.nullcontext()


class Recorder:
    """Records functions; ``made`` are the recordings, which are added to those of recorders before."""

    def __init__(self, made, limit=1 << 40):
        self.limit, self.bytes, self.made = limit, 0, made

    def __call__(self, function):
        with _Tape() as tape:
            function()
        self.made.append(Recording(tape.calls))
        self.bytes += self.made[-1].bytes
        return self.made[-1]

    def wait(self):
        pass

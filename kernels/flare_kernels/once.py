"""What operators with a backward pass of their own cannot do, said in a sentence instead of a wrong number."""

import torch


def is_transformed() -> bool:
    """Whether a transform of `torch.func` runs: for that an autograd.Function has another form."""
    # In that form torch looks at signatures in each call, which takes longer than a small mixer.
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def refuse_transforms() -> None:
    """Stop under a transform of `torch.func`.

    Raises:
        RuntimeError: under one.
    """
    if is_transformed():
        raise RuntimeError(
            "flare_kernels does not run under torch.func transforms (vmap, grad, jvp): give several meshes to one "
            "call, packed with `ptr` or dense [B, N, H, D], or use impl='reference'"
        )


def refuse_second_derivatives() -> None:
    """Stop in a backward pass whose result is to be differentiated.

    Gradient mode is on in a backward pass only with `create_graph=True`. Left alone, the gradient would count as a
    constant of its inputs, and a second derivative would be wrong without a word.

    Raises:
        RuntimeError: with `create_graph=True`.
    """
    if not torch.compiler.is_compiling() and torch.is_grad_enabled():
        raise RuntimeError(
            "this path of flare_kernels cannot be differentiated twice (create_graph=True): use impl='reference', or "
            "for all of a model the environment variable FLARE_KERNELS_IMPL=reference"
        )

"""Every method against its paper, written out in float64 for one image and one target at a time.

A is (C, P) and G = dy/dA is (C, P), the positions flat; W is the classifier's row of the target, (C,). Each formula
returns the map (P,) at the layer's size, before any post-processing.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fastcam
from fastcam import ops
from tests.support.networks import in_double, small_images, small_network

pytestmark = pytest.mark.usefixtures("one_thread")

AGREEMENT = 1e-5  # of the map's range: float32 against float64


def cam(A, G, W):
    """Zhou et al. 2016, eq. 2: M_c(p) = sum_k w_k^c f_k(p)."""
    return torch.stack([sum(W[k] * A[k, p] for k in range(len(A))) for p in range(A.shape[1])])


def grad_cam(A, G, W):
    """Selvaraju et al. 2017, eq. 1-2: alpha_k = 1/Z sum_p G_kp; L = ReLU(sum_k alpha_k A_k)."""
    alpha = [sum(G[k]) / G.shape[1] for k in range(len(A))]
    return sum(alpha[k] * A[k] for k in range(len(A))).clamp(min=0)


def grad_cam_pp(A, G, W):
    """Chattopadhyay et al. 2018, eq. 19, 7, 8: w_k = sum_p alpha_kp ReLU(G_kp); L = ReLU(sum_k w_k A_k)."""
    total = torch.zeros_like(A[0])
    for k in range(len(A)):
        w = 0.0
        for g in G[k]:
            denominator = 2 * g**2 + sum(A[k]) * g**3
            alpha = g**2 / denominator if denominator != 0 else 0.0
            w += alpha * max(g, 0.0)
        total += w * A[k]
    return total.clamp(min=0)


def xgrad_cam(A, G, W):
    """Fu et al. 2020, eq. 8: w_k = sum_p (A_kp / sum_q A_kq) G_kp; L = ReLU(sum_k w_k A_k)."""
    w = [sum(A[k] * G[k]) / (sum(A[k]) + 1e-7) for k in range(len(A))]
    return sum(w[k] * A[k] for k in range(len(A))).clamp(min=0)


def hires_cam(A, G, W):
    """Draelos and Carin 2020: L = ReLU(sum_k G_k * A_k), element by element."""
    return torch.einsum("kp,kp->p", G, A).clamp(min=0)


def layer_cam(A, G, W):
    """Jiang et al. 2021, eq. 5-7: w_kp = ReLU(G_kp); L = ReLU(sum_k w_k * A_k)."""
    return torch.einsum("kp,kp->p", G.clamp(min=0), A).clamp(min=0)


def grad_cam_elementwise(A, G, W):
    """L = ReLU(sum_k ReLU(G_k * A_k))."""
    return (G * A).clamp(min=0).sum(0)


def eigen_cam(A, G, W):
    """Muhammad and Yeasin 2020: the positions, samples in R^C and centred, on their first right singular vector."""
    return _principal(A.T, A)


def eigen_grad_cam(A, G, W):
    """Eigen-CAM of G * A."""
    return _principal((G * A).T, A)


def _principal(samples, A):
    centred = samples - samples.mean(0)  # (P, C)
    projection = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[0]
    energy = (A - A.mean(1, keepdim=True)).square().sum(0)  # the sign: with the energy of the centred activations
    agrees = torch.corrcoef(torch.stack([projection, energy]))[0, 1] > 0
    return (projection if agrees else -projection).clamp(min=0)


FORMULAS = {
    "cam": cam,
    "gmp_cam": cam,  # Oquab et al. 2015: the same sum, behind global max pooling
    "eigen_cam": eigen_cam,
    "eigen_grad_cam": eigen_grad_cam,
    "grad_cam": grad_cam,
    "grad_cam_pp": grad_cam_pp,
    "xgrad_cam": xgrad_cam,
    "hires_cam": hires_cam,
    "layer_cam": layer_cam,
    "grad_cam_elementwise": grad_cam_elementwise,
}
CLASSIFIER_ONLY = {"cam", "gmp_cam"}
BY_HEAD = {
    "gap": [name for name in FORMULAS if name != "gmp_cam"],  # closed form
    "gmp": [name for name in FORMULAS if name != "cam"],
    "mlp": [name for name in FORMULAS if name not in CLASSIFIER_ONLY],  # backward pass
}
TARGETS = {
    "one class": 3,
    "a class per image": [4, 1],
    "K classes per image": [[0, 4, 2], [1, 1, 3]],
}


ELSEWHERE = {
    "test_ablation": ["ablation_cam"],
    "test_backprop": ["saliency", "input_x_gradient", "deconvnet", "guided_backprop", "guided_grad_cam"],
    "test_full_grad": ["full_grad"],
    "test_occlusion": ["occlusion", "rise"],
    "test_path": ["integrated_gradients", "smooth_grad"],
    "test_score_cam": ["score_cam"],
}


def test_every_registered_method_has_a_formula():
    assert set(FORMULAS).union(*ELSEWHERE.values()) == {method.name for method in fastcam.list_methods()}
    for file, names in ELSEWHERE.items():
        text = Path(__file__).with_name(f"{file}.py").read_text()
        assert all(name in text for name in names)


def oracle(head: str, axes: int, scores) -> tuple[Tensor, Tensor]:
    """A (N, C, P) and G (N, K, C, P) of a float64 copy, by one hook and one torch.autograd.grad per target."""
    model = in_double(small_network(head, axes))
    kept = []
    handle = model.body.register_forward_hook(lambda module, arguments, output: kept.append(output))
    values = scores(model(small_images(axes).double()))  # (N, K)
    handle.remove()
    gradients = [torch.autograd.grad(column.sum(), kept[0], retain_graph=True)[0] for column in values.T]
    return kept[0].detach().flatten(2), torch.stack(gradients, 1).flatten(3)


def expected(name: str, A: Tensor, G: Tensor, W: Tensor) -> Tensor:
    """(N, K, P) maps by the paper's formula; W is (N, K, C)."""
    formula = FORMULAS[name]
    return torch.stack(
        [torch.stack([formula(A[n], G[n, k], W[n, k]) for k in range(G.shape[1])]) for n in range(len(A))]
    )


def assert_maps_close(maps: Tensor, truth: Tensor, agreement: float = AGREEMENT) -> None:
    """Every map within `agreement` of the range of the true one; zeros where that is zeros."""
    span = truth.amax(-1, keepdim=True) - truth.amin(-1, keepdim=True)
    assert (span > 0).any(), "maps without a range test nothing"
    assert ((maps - truth).abs() <= agreement * span).all(), (
        f"{((maps - truth).abs() / span).nan_to_num().max():.1e} of the range"
    )


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize(
    ("head", "axes"), [("gap", 2), ("gmp", 2), ("mlp", 2), ("gap", 1), ("gap", 3), ("mlp", 1), ("mlp", 3)]
)
def test_maps_are_the_papers(head, axes, target):
    classes = torch.tensor(target).expand(2) if isinstance(target, int) else torch.tensor(target)
    classes = classes.reshape(2, -1)
    A, G = oracle(head, axes, lambda output: output.gather(1, classes))
    W = linear(head, axes)[classes]
    model = small_network(head, axes)
    explanations = fastcam.explain(model, small_images(axes), BY_HEAD[head], target, target_layer="body")
    for name in BY_HEAD[head]:
        native = explanations[name].native
        assert native.shape[native.dim() - axes :] == small_images(axes).shape[2:]
        assert (native.dim() == axes + 2) == (isinstance(target, list) and isinstance(target[0], list))
        assert_maps_close(native.reshape(2, classes.shape[1], -1), expected(name, A, G, W))


def linear(head: str, axes: int) -> Tensor:
    """The last linear layer's weight in float64."""
    return (
        [module for module in small_network(head, axes).modules() if isinstance(module, nn.Linear)][-1]
        .weight.double()
        .detach()
    )


def difference(output: Tensor) -> Tensor:
    """(N,): a class difference."""
    return output[:, 2] - output[:, 0]


def two_scores(output: Tensor) -> Tensor:
    """(N, 2): a log-probability and a nonlinear score."""
    return torch.stack([output.log_softmax(1)[:, 1], output[:, 3].exp()], 1)


@pytest.mark.parametrize("score", [difference, two_scores])
@pytest.mark.parametrize("head", ["gap", "gmp", "mlp"])
def test_callable_targets(head, score):
    names = [name for name in BY_HEAD[head] if name not in CLASSIFIER_ONLY]
    A, G = oracle(head, 2, lambda output: score(output).reshape(2, -1))
    explanations = fastcam.explain(small_network(head), small_images(), names, score, target_layer="body")
    for name in names:
        maps = explanations[name].native.reshape(2, G.shape[1], -1)
        assert_maps_close(maps, expected(name, A, G, G[..., 0]))


def test_one_callable_per_image():
    A, G = oracle("mlp", 2, lambda output: torch.stack([output[0, 1] - output[0, 0], output[1, 4].tanh()])[:, None])
    callables = [lambda logits: logits[1] - logits[0], lambda logits: logits[4].tanh()]
    maps = fastcam.explain(small_network("mlp"), small_images(), "grad_cam", callables, target_layer="body").native
    assert_maps_close(maps.reshape(2, 1, -1), expected("grad_cam", A, G, G[..., 0]))


def test_the_target_none_is_the_highest_class_and_all_is_every_class():
    model, images = small_network("mlp"), small_images()
    highest = model(images).argmax(1)
    every = fastcam.explain(model, images, "layer_cam", "all", target_layer="body")
    assert every.targets.tolist() == [[0, 1, 2, 3, 4]] * 2
    chosen = fastcam.explain(model, images, "layer_cam", target_layer="body")
    assert chosen.targets.tolist() == highest.tolist()
    torch.testing.assert_close(chosen.native, every.native[torch.arange(2), highest])


SIGNED = [m.name for m in fastcam.list_methods() if not m.relu and m.name not in ("full_grad", "rise")]


@pytest.mark.parametrize("name", SIGNED)
def test_relu_can_be_asked_for(name):
    head = "gmp" if name == "gmp_cam" else "gap"
    signed = fastcam.explain(small_network(head), small_images(), name, 3, "body", reduce="sum").native
    positive = fastcam.explain(small_network(head), small_images(), name, 3, "body", reduce="sum", relu=True).native
    assert signed.min() < 0
    assert torch.equal(positive, signed.clamp(min=0))


@pytest.mark.parametrize("name", [method.name for method in fastcam.list_methods() if method.relu])
def test_relu_can_be_left_out(name):
    positive = fastcam.explain(small_network("mlp"), small_images(), name, "all", target_layer="body").native
    signed = fastcam.explain(small_network("mlp"), small_images(), name, "all", target_layer="body", relu=False).native
    torch.testing.assert_close(positive, signed.clamp(min=0))
    assert (signed.min() < 0) == (name != "grad_cam_elementwise" and not never_negative(name))


def never_negative(name: str) -> bool:
    """Behind a ReLU the activations are not negative, nor are these methods' weights."""
    return name in ("grad_cam_pp", "layer_cam", "score_cam")


def signed_pair(targets: int | None, spatial: tuple[int, ...] = (3, 4)) -> tuple[Tensor, Tensor]:
    """Activations (2, 5, *S) and gradients (2, [K,] 5, *S) of both signs with exact zeros, in float64."""
    generator = torch.Generator().manual_seed(0)
    activations = torch.randn(2, 5, *spatial, generator=generator, dtype=torch.float64)
    gradients = torch.randn(2, *([targets] if targets else []), 5, *spatial, generator=generator, dtype=torch.float64)
    gradients[..., 0] = 0
    activations[:, 1] = 0
    return activations, gradients


def rule_maps(method: fastcam.Method, activations: Tensor, gradients: Tensor, relu: bool) -> Tensor:
    """(N, [K,] *S): the reduction of the rule's weights, or the map it returns, in plain PyTorch."""
    has_targets = gradients.dim() > activations.dim()
    A = activations.flatten(2).unsqueeze(1) if has_targets else activations.flatten(2)
    G = gradients.flatten(3 if has_targets else 2)
    available = {"activations": A, "gradients": G}
    maps = method.rule(*[available[need] for need in method.needs])
    if method.returns == "weights":
        weights = maps if maps.dim() == G.dim() else maps.unsqueeze(-1)
        maps = (weights * A).sum(-2)
    maps = maps.clamp(min=0) if relu else maps
    return maps.expand(*G.shape[:-2], A.shape[-1]).unflatten(-1, activations.shape[2:])


@pytest.mark.parametrize("spatial", [(7,), (3, 4), (2, 3, 2)], ids=["1-D", "2-D", "3-D"])
@pytest.mark.parametrize("targets", [None, 3], ids=["one target", "K targets"])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("method", [m for m in fastcam.list_methods() if m.fused], ids=lambda m: m.name)
def test_a_fused_op_is_its_rule_and_the_reduction(method, relu, targets, spatial):
    activations, gradients = signed_pair(targets, spatial)
    fused = method.fused(activations, gradients, relu=relu)
    torch.testing.assert_close(fused, rule_maps(method, activations, gradients, relu), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("targets", [None, 3], ids=["one target", "K targets"])
@pytest.mark.parametrize("name", [name for name in FORMULAS if name not in CLASSIFIER_ONLY])
def test_rules_on_activations_of_both_signs(name, targets):
    activations, gradients = signed_pair(targets)
    method = fastcam.get_method(name)
    A, G = activations.flatten(2), gradients.flatten(-2).reshape(2, -1, 5, 12)
    truth = expected(name, A, G, G[..., 0])
    maps = rule_maps(method, activations, gradients, method.relu).reshape(truth.shape)
    torch.testing.assert_close(maps, truth, rtol=1e-9, atol=1e-9)


def test_the_option_eps_of_xgrad_cam():
    """w_k = sum_p G A / (sum_p A + eps)."""
    A, G = oracle("mlp", 2, lambda output: output[:, [3]])
    w = (G[:, 0] * A).sum(-1) / (A.sum(-1) + 5.0)
    truth = torch.einsum("nk,nkp->np", w, A)
    model, images = small_network("mlp"), small_images()
    maps = fastcam.explain(model, images, "xgrad_cam", 3, target_layer="body", relu=False, eps=5.0).native
    assert_maps_close(maps.flatten(1), truth)


def test_reduction_with_weights_that_broadcast():
    """(N, C), (N, K, C), (N, C, *S) and (N, K, C, *S), each against einsum."""
    activations, gradients = signed_pair(3)
    weights = gradients.mean((-1, -2))
    for given, equation in [
        (weights[:, 0], "nk,nkhw->nhw"),
        (weights, "njk,nkhw->njhw"),
        (gradients[:, 0], "nkhw,nkhw->nhw"),
        (gradients, "njkhw,nkhw->njhw"),
    ]:
        truth = torch.einsum(equation, given, activations)
        torch.testing.assert_close(ops.weighted_channel_sum(activations, given), truth)

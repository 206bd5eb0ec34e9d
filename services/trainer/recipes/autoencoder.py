"""An autoencoder: x̂ = decoder(encoder(x)) through a code of few numbers, trained to make mean |x̂ − x|² least.

With linear layers its best code spans the principal components (Baldi and Hornik 1989), which the report compares it
with; with curved ones it may do better (Hinton and Salakhutdinov 2006).

Dataset: a table, see `tables`; `target` names a column to leave out. Model: features FP32 [B, D] → code FP32 [B, k].
"""

import torch
from torch import nn

from aios.train import Run
from services.trainer.job import loop, plots, result, tables
from services.trainer.job.layers import Scale
from services.trainer.job.tables import Scaling
from services.trainer.recipes.mlp import Perceptron
from services.trainer.recipes.pca import decompose


def train(run: Run) -> None:
    """Train, compare, hand over."""
    settings = loop.prepare(run)
    train, test = tables.load(run.files(), settings["target"], classes=True, seed=run.seed)
    device = loop.device()
    scaling = Scaling.of(train.x_ND, wanted=settings["standardize"])
    x, held = (torch.from_numpy(scaling(part.x_ND)).float().to(device) for part in (train, test))
    features, code, width = x.shape[1], settings["code"], settings["width"]
    plain = Scaling.of(train.x_ND, wanted=False)
    narrow = Scaling.of(train.x_ND[:1, :1].repeat(code, axis=1), wanted=False)
    encoder = Perceptron(plain, [width], code, 0.0)
    decoder = Perceptron(narrow, [width], features, 0.0)
    model = nn.Sequential(encoder, decoder).to(device)
    loop.fit(
        run,
        model,
        len(x),
        lambda chosen_B: (model(x[chosen_B]) - x[chosen_B]).square().mean(),
        lambda: {"test_reconstruction_error": float((model(held) - held).square().mean())},
    )
    components_KD, _ = decompose(scaling(train.x_ND), min(code, *x.shape))
    off = scaling(test.x_ND) - scaling(train.x_ND).mean(axis=0)
    lost = off - off @ components_KD.T @ components_KD
    model = model.cpu().eval()
    with torch.no_grad():
        codes = encoder(held.cpu()).numpy()
        error = float((model(held.cpu()) - held.cpu()).square().mean())
    figures = {"test_reconstruction_error": error, "pca_reconstruction_error": float((lost**2).mean())}
    second = codes[:, 1] if code > 1 else codes[:, 0]
    groups = test.y_N if len(test.y_N) else None
    evaluation = result.described(
        f"Autoencoder, {run.name}",
        figures,
        plots.points("The code's first two numbers", "first", "second", codes[:, 0], second, groups),
    )
    result.keep(
        run,
        nn.Sequential(Scale(scaling), encoder),
        torch.from_numpy(test.x_ND[:8]).float(),
        evaluation,
        output_name="code",
        files={"features.json": list(train.features)},
    )

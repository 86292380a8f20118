"""Runs with several models in one pass over the images: each is read and decoded once, and each model has a folder."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from torch import nn

from fastcam.classifiers.models import Classifier
from fastcam.dataset.device_decoding import device_decoder
from fastcam.dataset.job import Job
from fastcam.dataset.job_arguments import make_job
from fastcam.dataset.runner import Progress, Report, Runner
from fastcam.dataset.sources import SourceLike, source_of

Setting = TypeVar("Setting")
ByModel: TypeAlias = Setting | Mapping[str, Setting]  # the same for all models, or by the name of each

BY_MODEL = ("target", "target_layer", "reshape_transform", "preprocessing", "features")  # settings that may differ


def jobs_of(
    source: SourceLike, models: Mapping[str, nn.Module | Classifier], out: str | Path, settings: Mapping[str, Any]
) -> list[Job]:
    """Return a job for each model, in the folder of its name below ``out``.

    Args:
        source: as for :func:`run`.
        models: by name.
        out: output folder.
        settings: further arguments of :func:`run`; those of ``BY_MODEL`` may be mappings from names of models.

    Raises:
        ValueError, TypeError: for invalid arguments, or a name that is none of a folder.
    """
    if not models:
        raise ValueError("`model` must hold at least one model, got an empty mapping")
    for name in models:
        if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
            raise ValueError(f"the names of models are names of folders below `out`, got {name!r}")
    images = source_of(source)
    return [
        make_job(images, model, Path(out) / name, **_settings_of(name, models, settings))
        for name, model in models.items()
    ]


def check_one_model(settings: Mapping[str, Any]) -> None:
    """Raise ValueError for a setting by the names of models, where there is one model without a name."""
    for setting in BY_MODEL:
        if isinstance(settings.get(setting), Mapping):
            names = ", ".join(map(str, settings[setting]))
            raise ValueError(f"`{setting}` is given by the names of models ({names}), and `model` is one model")


def _settings_of(name: str, models: Mapping[str, object], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of one model: those that are mappings by name taken apart, the others as they are."""
    own = {}
    for setting, value in settings.items():
        if setting in BY_MODEL and isinstance(value, Mapping):
            unknown = sorted(set(value) - set(models))
            if unknown:
                raise ValueError(f"`{setting}` names {unknown[0]!r}, which is none of the models {', '.join(models)}")
            if name in value:
                own[setting] = value[name]
        else:
            own[setting] = value
    return own


def run_jobs(jobs: Sequence[Job], report: Report) -> Progress:
    """Run jobs over the same images in this process, each image loaded once for all.

    Raises:
        InterruptedRunError, OSError, ValueError, TypeError, RuntimeError: as :func:`run`.
    """
    device_decoder(jobs[0].loader, jobs[0].device)
    makers = [job.make_maker() for job in jobs]  # raises for invalid settings before anything is written
    seen = list(dict.fromkeys(job.loader.preprocessing for job in jobs))
    with contextlib.ExitStack() as stack:
        stores = [stack.enter_context(contextlib.closing(job.open_store())) for job in jobs]
        makings = [
            job.make_making(maker, store, seen.index(job.loader.preprocessing))
            for job, maker, store in zip(jobs, makers, stores, strict=True)
        ]
        first = jobs[0]
        pixels = any(job.device.type != "cpu" for job in jobs)
        loader = replace(first.loader, preprocessing=seen[0], more=tuple(seen[1:]), pixels=pixels)
        missing = [span for span in first.spans() if not all(store.is_done(span) for store in stores)]
        decoder = device_decoder(loader, first.device)
        runner = Runner(first.source, loader, makings, first.workers_on(), report, decoder)
        done = runner.run(len(first.source), missing)
        for store in stores if done.new else ():
            store.note_run(done.summary())
        return done

"""Lists timm's smallest model of every family: `python -m tests.zoo.timm_smallest [FAMILY ...]`, some minutes."""

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

LIST = Path(__file__).with_name("timm_smallest.txt")  # "family model parameters" a line


def listed() -> dict[str, tuple[str, int]]:
    """Return the model of every family, by family, and how many parameters it has."""
    lines = [line.split() for line in LIST.read_text().splitlines()]
    return {family: (name, int(parameters)) for family, name, parameters in lines}


def _counted(names: Iterator[str]) -> Iterator[tuple[int, str]]:
    import timm
    import torch

    for name in names:
        try:
            with torch.device("meta"):  # no memory, and no time for initial values
                model = timm.create_model(name)
        except (RuntimeError, NotImplementedError, TypeError, ImportError) as failure:
            print(f"{name} cannot be built without values: {failure}", file=sys.stderr)
            continue
        yield sum(parameter.numel() for parameter in model.parameters()), name


def _names(names: list[str]) -> list[str]:
    """Leave out the models that are made for timm's own tests, where there are others: nobody uses them."""
    return [name for name in names if not name.startswith("test_")] or names


def main() -> None:
    """Build the models of the families given, or of those not listed yet, without values, and list the smallest."""
    import timm

    warnings.simplefilter("ignore")
    known = listed()
    for family in sys.argv[1:] or sorted(set(timm.list_modules()) - set(known)):
        counted = sorted(_counted(iter(_names(timm.list_models(module=family)))))
        if counted:
            known[family] = counted[0][1], counted[0][0]
            print(family, *known[family], flush=True)
            LIST.write_text("".join(f"{each} {name} {count}\n" for each, (name, count) in sorted(known.items())))


if __name__ == "__main__":
    main()

"""`python -m tests.zoo [--only PATTERN] [--size N] [--json FILE] [--table FILE.md]`: the table over architectures."""

import argparse
import dataclasses
import importlib
import json
import multiprocessing
import re
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from tests.zoo import table
from tests.zoo.case import Case
from tests.zoo.measure import Row, measure

MODULES = ("torchvision_cases", "timm_cases", "transformers_cases", "other_cases")
# Started by fork: the libraries are imported once, and a model that hangs or runs out of memory ends alone.
_processes = multiprocessing.get_context("fork")


def all_cases() -> list[Case]:
    """Return the cases of all libraries that are installed."""
    cases: list[Case] = []
    for name in MODULES:
        try:
            cases += importlib.import_module(f"tests.zoo.{name}").cases()
        except ImportError as missing:
            print(f"{name} left out: {missing}")
    return cases


def measured(case: Case, size: int | None, seconds: float) -> Row:
    """Measure a case in a process of its own, which is ended after that many seconds."""
    receiver, sender = _processes.Pipe(duplex=False)
    process = _processes.Process(target=_send, args=(sender, case, size), daemon=True)
    process.start()
    sender.close()
    try:
        if receiver.poll(seconds):
            row: Row = receiver.recv()
            return row
        reason = f"not done after {seconds:g} s"
    except EOFError:
        reason = "its process ended without a result"
    finally:
        process.kill()
        process.join()
    return Row(case.name, reason=reason, parameters=case.parameters)


def _send(sender: Connection, case: Case, size: int | None) -> None:
    warnings.simplefilter("ignore")
    sender.send(measure(case, size))


def main() -> None:
    """Measure the cases one after the other; the files are written after each."""
    parser = argparse.ArgumentParser(prog="python -m tests.zoo", description=__doc__)
    parser.add_argument("--only", metavar="PATTERN", default="", help="regular expression in the model's name")
    parser.add_argument("--size", type=int, metavar="N", help="side of the image; without it the model's own")
    parser.add_argument("--limit", type=float, default=120, metavar="SECONDS", help="for one model")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--table", type=Path, metavar="FILE.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for case in all_cases():
        if not re.search(arguments.only, case.name):
            continue
        rows.append(measured(case, arguments.size, arguments.limit))
        print(table.line(rows[-1]), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n")
        if arguments.table:
            arguments.table.write_text(table.markdown(rows))
    print(table.summary(rows))


if __name__ == "__main__":
    main()

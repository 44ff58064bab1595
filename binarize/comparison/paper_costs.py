"""Parameters and operations of the networks in the BiDense paper's tables, counted without weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from binarize import accounting, graph, networks
from binarize.comparison.paper import DATA, PaperRow, PaperTable
from binarize.methods import create, get


def count_rows(table: PaperTable) -> Iterator[tuple[PaperRow, dict[str, dict[str, float]]]]:
    """Each row with its costs by convention: `params_k` in thousands, `ops_g` in 1e9.

    The networks are built on the meta device, for the first of the table's data sets and at its size.
    """
    built: dict[tuple[str, str], nn.Module] = {}
    known: dict[Any, dict[str, dict[str, float]]] = {}
    for row in table.rows:
        key = (row.network, row.encoder, row.method, repr(sorted(row.options.items())))
        if key not in known:  # pretrained weights cost what others do
            place = (row.network, row.encoder)
            if place not in built:
                built[place] = _float_network(row, table)
            known[key] = _costs(_binary(row, built[place]), DATA[table.data[0]].size)
        yield row, known[key]


def _float_network(row: PaperRow, table: PaperTable) -> nn.Module:
    with torch.device("meta"):
        return networks.build(row.network, encoder=row.encoder, **DATA[table.data[0]].arguments)


def _binary(row: PaperRow, network: nn.Module) -> nn.Module:
    if row.method is None:
        return network
    takes_form = "form" in {field.name for field in dataclasses.fields(get(row.method))}
    form = {"form": "table"} if takes_form else {}
    return graph.apply(network, create(row.method, **form, **row.options))


def _costs(network: nn.Module, size: tuple[int, int]) -> dict[str, dict[str, float]]:
    return {
        convention: {"params_k": counted.params / 1e3, "ops_g": counted.ops / 1e9}
        for convention, counted in accounting.summaries(network, (3, *size)).items()
    }

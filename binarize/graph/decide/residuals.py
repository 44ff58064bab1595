"""Which bypasses and which sums stay, so that a signal is carried once and not doubled in every block.

A bypassed layer carries its input along. Where a whole branch does, the outer sum around it would add the
same signal again: 2 to the number of blocks. So, per sum (of two or more terms of one shape):

- a shortcut around a branch that carries it to the end is dropped from the sum;
- where the sum must stay (something multiplicative in the branch, a forward that cannot be rewritten), the
  last layers of the branch leave their bypass out instead: the sum is their bypass;
- of two or more parallel layers that are summed (projection shortcuts), the deepest branch keeps its bypass;
- a layer whose result is added to a signal of another origin leaves its bypass out, unless that signal or its
  own result was upsampled to meet it (top-down pathways of dense prediction, merged once).
"""

from __future__ import annotations

from torch import fx

from binarize.graph.decide.draft import Draft, SiteDraft
from binarize.graph.plan import Edit
from binarize.graph.plan_sentences import Code, Statement
from binarize.graph.trace.dataflow import PASSIVE
from binarize.methods.bypasses import drops_residual

_CARRIERS = {"layout", "drop", "act", "norm", "cat", "split", "add", "scale"}


def decide_residuals(draft: Draft) -> None:
    """Decide each sum of the network, in the order of the run."""
    inner: set[fx.Node] = set()
    for node in reversed(draft.flow.nodes):
        if node not in inner and _is_sum(draft, node):
            _terms(draft, node, inner)  # marks the sums inside this one
    for node in draft.flow.nodes:
        if _is_sum(draft, node) and node not in inner:
            _decide(draft, node, _terms(draft, node, set()))


def _is_sum(draft: Draft, node: fx.Node) -> bool:
    flow = draft.flow
    if flow.role(node) != "add" or node.op != "call_function":
        return False
    sources = flow.sources(node)
    return len(sources) == 2 and all(flow.shape(s) == flow.shape(node) for s in sources)


def _terms(draft: Draft, root: fx.Node, inner: set[fx.Node]) -> list[tuple[fx.Node, fx.Node]]:
    """The terms of a sum of sums, each with the addition that it is a term of."""
    found: list[tuple[fx.Node, fx.Node]] = []
    for source in draft.flow.sources(root):
        if len(source.users) == 1 and _is_sum(draft, source):
            inner.add(source)
            found += _terms(draft, source, inner)
        else:
            found.append((source, root))
    return found


def _decide(draft: Draft, root: fx.Node, terms: list[tuple[fx.Node, fx.Node]]) -> None:
    if not drops_residual(draft.method):
        return
    remaining = list(terms)
    for shortcut, addition in terms:
        others = [term for term, _ in remaining if term is not shortcut]
        branch = next((term for term in others if _carries(draft, shortcut, term)), None)
        if branch is None:
            continue
        if _drop(draft, shortcut, addition, branch):
            remaining.remove((shortcut, addition))
            break
        for site in _last_sites(draft, shortcut, branch):
            site.residual = Statement(Code.SUM_STAYS, draft.why_not_editable(addition))
            site.lose_bypass(Code.SUM_IS_BYPASS)
    leaves = [term for term, _ in remaining]
    for shortcut in leaves:
        for branch in leaves:
            origin = _origin(draft, shortcut)
            if branch is not shortcut and _surrounds(draft, origin, branch, root):
                for site in _last_sites(draft, origin, branch):
                    site.residual = site.residual or Statement(Code.SUM_STAYS_PARTIAL)
                    site.lose_bypass(Code.SUM_IS_BYPASS)
    _parallel(draft, leaves)


def _carries(draft: Draft, start: fx.Node, end: fx.Node) -> bool:
    """Every path from `start` to `end` carries the signal, at its resolution, through a layer or more."""
    region = draft.flow.between(start, end)
    if not any(draft.site_at(node) for node in region):
        return False
    return all(_is_carrier(draft, node) and not _doubles(draft, node, region, start) for node in region)


def _doubles(draft: Draft, node: fx.Node, region: set[fx.Node], start: fx.Node) -> bool:
    """A sum inside the branch that adds the signal to itself and stays (Res2Net's running sums)."""
    if draft.flow.role(node) != "add" or (node.meta["owner"], node.meta["step"]) in draft.edits:
        return False
    return sum(source is start or source in region for source in draft.flow.sources(node)) > 1


def _is_carrier(draft: Draft, node: fx.Node) -> bool:
    site = draft.site_at(node)
    if site is not None:
        return site.bypass and not site.strided()
    if draft.flow.is_layer(node):
        return False
    return draft.flow.role(node) in _CARRIERS or node in draft.scales


def _drop(draft: Draft, shortcut: fx.Node, addition: fx.Node, branch: fx.Node) -> bool:
    terms = enumerate(addition.args)
    keep = next((i for i, arg in terms if isinstance(arg, fx.Node) and arg is not shortcut), None)
    if keep is None:
        return False
    edit = Edit(owner=addition.meta["owner"], node=addition.meta["step"] or "", action="drop", keep=keep)
    if not draft.edit(addition, edit):
        return False
    for node in draft.flow.between(shortcut, branch):
        site = draft.site_at(node)
        if site is not None:
            site.residual = Statement(Code.SUM_DROPPED)
    return True


def _origin(draft: Draft, node: fx.Node) -> fx.Node:
    """The signal that a term is, or is some channels of (dual path networks)."""
    while draft.flow.role(node) in PASSIVE | {"split"} and (source := draft.flow.source(node)) is not None:
        node = source
    return node


def _surrounds(draft: Draft, start: fx.Node, end: fx.Node, root: fx.Node) -> bool:
    """Whether `start` -> `end` is a branch with converted layers, and the sum `root` its outer sum.

    A branch that is upsampled from a coarser map counts only if all of it is in the block that makes the sum,
    whose input is `start`; elsewhere it is a top-down pathway, merged with finer maps once.
    """
    region = draft.flow.between(start, end)
    if not any(draft.site_at(node) for node in region):
        return False
    if not any(_upsamples(draft, node) for node in region):
        return True
    block = root.meta["owner"]
    inside = all(_is_inside(node.meta["owner"], block) for node in region)
    return inside and bool(block) and not _is_inside(start.meta["owner"], block)


def _is_inside(path: str, block: str) -> bool:
    return path == block or not block or path.startswith(f"{block}.")


def _upsamples(draft: Draft, node: fx.Node) -> bool:
    site = draft.site_at(node)
    return draft.flow.role(node) == "upsample" or (site is not None and site.site().transposed)


def _last_sites(draft: Draft, start: fx.Node, end: fx.Node) -> list[SiteDraft]:
    """The converted layers of a branch behind which no other layer of it comes."""
    region = draft.flow.between(start, end)
    found: list[SiteDraft] = []
    seen: set[fx.Node] = set()
    queue = [end]
    while queue:
        node = queue.pop()
        if node in seen or node not in region:
            continue
        seen.add(node)
        if draft.flow.is_layer(node):
            site = draft.site_at(node)
            if site is not None:
                found.append(site)
            continue
        queue += node.all_input_nodes
    return found


def _parallel(draft: Draft, leaves: list[fx.Node]) -> None:
    direct = {leaf: draft.direct_site(leaf) for leaf in leaves}
    sites = [site for site in direct.values() if site is not None]
    trunks = [leaf for leaf, site in direct.items() if site is None]
    if trunks:
        if any(not _upsampled(draft, trunk) for trunk in trunks):
            for site in sites:
                site.lose_bypass(Code.ADDED_TO_SIGNAL)
        return
    deepest = max(leaves, key=lambda leaf: draft.position.depth(leaf))
    for leaf, site in direct.items():
        if site is not None and leaf is not deepest and site is not direct[deepest]:
            site.lose_bypass(Code.BESIDE_BYPASS)


def _upsampled(draft: Draft, node: fx.Node) -> bool:
    flow = draft.flow
    found: fx.Node | None = node
    while found is not None and (flow.role(found) in PASSIVE | {"act", "norm"}):
        found = flow.source(found)
    if found is None:
        return False
    site = draft.site_at(found)
    return flow.role(found) == "upsample" or (site is not None and site.site().transposed)

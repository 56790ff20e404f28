"""`scripts/draw-phases`: draws the state diagrams of docs/protocol.md from peers/phases.py; --check only compares."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from omnilytics.peers.phases import CONTRACT_PHASES, MODEL_MOVES, OWNER_MOVES
from scripts.toolchain import ROOT

PAGE = ROOT / "docs" / "protocol.md"
BEGIN, END = "<!-- phases: drawn by scripts/draw-phases -->", "<!-- end of phases -->"


def diagrams() -> str:
    """Mermaid text of the contract's phases and of a round at both sides."""
    contract = ["```mermaid", "stateDiagram-v2", "    [*] --> Joining"]
    for phase in CONTRACT_PHASES:
        for following in phase.next:
            name, _, how = following.partition(" ")
            contract.append(f"    {phase.name} --> {name}{': ' + how.strip('()') if how else ''}")
    contract.append("```")
    table = ["| phase | ends when | at the latest after | then |", "|---|---|---|---|"]
    table += [
        f"| {phase.name} | {phase.ends_when} | {phase.deadline or '-'} | {', '.join(phase.next)} |"
        for phase in CONTRACT_PHASES
    ]
    sides = []
    for title, moves in (("A data owner in a round", OWNER_MOVES), ("The model owner in a round", MODEL_MOVES)):
        rows = [f"| {stage.value} | {cause.value} | {after.value} |" for (stage, cause), after in moves.items()]
        sides += [f"\n{title}:\n", "| stage | because | next |", "|---|---|---|", *rows]
    return "\n".join([BEGIN, "", *contract, "", *table, *sides, "", END])


def redrawn(text: str) -> str:
    """The page with its diagrams drawn anew. Raises ValueError where the page has no place for them."""
    before, rest = text.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    return before + diagrams() + after


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--check", is_flag=True, help="Change nothing; fail when the page is not up to date.")
def main(check: bool) -> None:
    """Draw the state diagrams of docs/protocol.md from the code's own table."""
    page = Path(PAGE)
    text = page.read_text(encoding="utf-8")
    fresh = redrawn(text)
    if check and fresh != text:
        click.echo("docs/protocol.md is not up to date; run: scripts/draw-phases", err=True)
        sys.exit(1)
    if not check:
        page.write_text(fresh, encoding="utf-8")


if __name__ == "__main__":
    main(prog_name="scripts/draw-phases")

"""`scripts/first-minutes`: a newcomer's first minutes, played with the real commands; writes docs/first-ten-minutes.md.

Every line of output in the page is what a command has printed in this run, and every duration was measured in it;
only folders of this machine are shortened. A command that does not end as it should ends the script, and nothing is
written.

Exit codes: 0 written; 1 something did not go as it should; 2 wrong options.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from omnilytics.daemon.commands.initialise import write_new
from omnilytics.daemon.config import CONFIG_NAME
from omnilytics.daemon.config_text import config_text
from omnilytics.daemon.data_registry import DataSource
from omnilytics.daemon.keystore import create_keys
from omnilytics.daemon.training.data import Dataset, dirichlet_split, load_digits, split_holdout
from scripts.fund_main import give
from scripts.processes import ManagedProcess, ProcessError, Supervisor, cancelled_by_signals, clean_environment
from scripts.toolchain import ROOT

PAGE = ROOT / "docs" / "first-ten-minutes.md"
BIN = ROOT / ".venv" / "bin"
# Three groups of three: the newcomer and eight others.
OTHERS = 8
ROUNDS = 3
# Generous: on a machine with much else to do everything takes several times as long.
COMMAND_SECONDS = 300.0
SKEW = 1000.0


class UnexpectedError(Exception):
    """A command did not end as it should; the text is for people."""


@dataclass
class Story:
    """The page as it is written, and the place where its commands run."""

    folder: Path
    lines: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        """A paragraph, or a heading."""
        self.lines += [text, ""]

    def shown(self, text: str) -> str:
        """Output without this machine's folders."""
        text = text.replace(str(self.folder), "~/market").replace(str(ROOT), "~/omnilytics")
        home = Path.home()
        # In a container it may be the root, which is in every path.
        return (text if home == Path(home.anchor) else text.replace(f"{home}/", "~/")).rstrip()

    @property
    def environment(self) -> dict[str, str]:
        """As a newcomer's who has activated the virtual environment, with no settings of ours."""
        own = {name: value for name, value in clean_environment().items() if not name.startswith("OMNILYTICS_")}
        return own | {"PATH": f"{BIN}{os.pathsep}{own.get('PATH', '')}"}

    async def run(self, typed: str, code: int = 0, show_output: bool = True) -> str:
        """Runs what a newcomer types, in the folder, and writes it down with what it printed. Its standard output."""
        click.echo(f"$ {self.shown(typed)}", err=True)
        began = time.monotonic()
        out, text, got = await self._perform(shlex.split(typed))
        took = time.monotonic() - began
        if got != code:
            raise UnexpectedError(f"exit code {got}, not {code}: {typed}\n{text}")
        self.write_down(typed, text if show_output else "", took, got)
        return out

    def write_down(self, typed: str, text: str, took: float | None, code: int = 0) -> None:
        """A command as it is typed, what it printed, how long it took."""
        self.lines += ["```console", f"$ {self.shown(typed)}"]
        if text.strip():
            self.lines.append(self.shown(text))
        told = [] if took is None else [f"{took:.1f} s"]
        told += [f"exit code {code}"] if code else []
        self.lines += ["```", f"*({', '.join(told)})*" if told else "", ""]

    async def _perform(self, argv: list[str]) -> tuple[str, str, int]:
        """Standard output, both streams in the order in which they came, and the exit code."""
        program = [str(ROOT / argv[0]) if argv[0].startswith("scripts/") else argv[0], *argv[1:]]
        process = await asyncio.create_subprocess_exec(
            *program,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None and process.stderr is not None
        out: list[str] = []
        both: list[str] = []

        async def read(stream: asyncio.StreamReader, into: list[str] | None) -> None:
            async for line in stream:
                both.append(line.decode())
                if into is not None:
                    into.append(line.decode())

        try:
            async with asyncio.timeout(COMMAND_SECONDS):
                await asyncio.gather(read(process.stdout, out), read(process.stderr, None))
                await process.wait()
        except TimeoutError:
            raise UnexpectedError(f"no end in {COMMAND_SECONDS:.0f} s: {shlex.join(argv)}\n{''.join(both)}") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return "".join(out), "".join(both), process.returncode or 0

    async def background(self, supervisor: Supervisor, typed: str, home: str, show: bool = True) -> ManagedProcess:
        """Starts a daemon as a shell's background job, and waits until its log says that it is ready."""
        click.echo(f"$ {self.shown(typed)} &", err=True)
        began = time.monotonic()
        log = self.folder / home / "log.jsonl"
        process = await supervisor.start(
            home,
            [BIN / "omnilytics", *shlex.split(typed)[1:]],
            log=self.folder / "output" / f"{home}.txt",
            events=log,
            env=self.environment,
            cwd=self.folder,
            death_signal=signal.SIGKILL,
        )
        if show:
            await process.wait_event("daemon.ready", timeout=COMMAND_SECONDS)
            self.write_down(f"{typed} &", "", time.monotonic() - began)
        return process


def write_table(path: Path, rows: Dataset) -> None:
    """A .csv as people have them: named columns, the label last."""
    names = [f"pixel_{number}" for number in range(rows.column_count)]
    lines = [",".join([*names, "digit"])]
    for values, label in zip(rows.features, rows.labels, strict=True):
        lines.append(",".join([*(f"{value:g}" for value in values), rows.classes[label]]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def share_out(folder: Path) -> None:
    """scikit-learn's digits: rows.csv is the newcomer's, others/N.csv the others', own.csv the model owner's."""
    rng = np.random.default_rng(7)
    rest, held = split_holdout(load_digits(), 0.2, rng)
    parts = dirichlet_split(rest.labels, OTHERS + 1, SKEW, rng)
    (folder / "others").mkdir()
    write_table(folder / "rows.csv", rest.take(parts[0]))
    for number, part in enumerate(parts[1:], start=1):
        write_table(folder / "others" / f"{number}.csv", rest.take(part))
    write_table(folder / "own.csv", held)


async def start_coordinator(story: Story, supervisor: Supervisor) -> dict[str, Any]:
    """scripts/coordinator as its user starts it; what it has written down of itself."""
    began = time.monotonic()
    state = story.folder / "coordinator"
    log = story.folder / "output" / "coordinator.txt"
    typed = f"scripts/coordinator --state {state}"
    click.echo(f"$ {story.shown(typed)}", err=True)
    process = await supervisor.start(
        "coordinator",
        [ROOT / "scripts" / "coordinator", "--state", state],
        log=log,
        env=story.environment,
        cwd=story.folder,
        # So that it can stop its own chain.
        death_signal=signal.SIGTERM,
    )
    await process.wait_line(
        lambda line: line if line.startswith("Ctrl-C stops it") else None, what="the local market", timeout=120
    )
    story.write_down(typed, log.read_text(encoding="utf-8"), time.monotonic() - began)
    said: dict[str, Any] = json.loads((state / "market.json").read_text(encoding="utf-8"))
    return said


async def others_join(story: Story, supervisor: Supervisor, market: dict[str, Any]) -> None:
    """More data owners: folders as init makes them, with fast keys, and the same daemon; not written down."""
    given = {"chain": market["rpc_url"], "market": market["market"], "broker": market["broker_url"]}
    for number in range(1, OTHERS + 1):
        home = f"other-{number}"
        folder = story.folder / home
        keys = create_keys(folder / "keys", home, light=True)
        write_new(folder / "password", home, 0o400)
        source = DataSource(story.folder / "others" / f"{number}.csv", "digit")
        write_new(folder / CONFIG_NAME, config_text(given, {"rows": source}), 0o600)
        await asyncio.to_thread(give, market["rpc_url"], keys.account.address, 10)
        await story.background(supervisor, f"omnilytics owner run --home ./{home}", home, show=False)


async def last_post(process: ManagedProcess) -> None:
    """Returns once a daemon's vector of the last round is on the chain."""

    def posted(line: str) -> bool | None:
        try:
            record = json.loads(line)
        except ValueError:
            return None
        said = record.get("event"), record.get("round"), record.get("data", {}).get("function")
        return True if said == ("tx.mined", ROUNDS, "post") else None

    await process.wait_line(posted, what="a post in the last round", timeout=COMMAND_SECONDS)


async def play(story: Story) -> None:
    """The story, from nothing to money."""
    share_out(story.folder)
    (story.folder / "output").mkdir()
    async with Supervisor() as supervisor:
        story.say("## A market to try it in")
        story.say(
            "The first terminal: a local chain, a broker and the market contract. On a public network there is no need "
            "for it; its operator gives you the three addresses."
        )
        market = await start_coordinator(story, supervisor)
        where = (
            f"--chain {market['rpc_url']} --chain-id {market['chain_id']} "
            f"--market {market['market']} --broker {market['broker_url']}"
        )
        state = story.folder / "coordinator"

        story.say("## A data owner")
        story.say(
            "Alice has a table, `rows.csv`, whose column `digit` is to be learnt. None of it ever leaves her machine. "
            "She makes a folder with new keys; what she names here stands in `alice/config.toml` from now on:"
        )
        alice = (await story.run(f"omnilytics init --home ./alice {where}")).strip()
        story.say("She tells her daemon which rows it may learn from; all of them are read:")
        await story.run("omnilytics data add rows.csv --label digit --home ./alice")
        story.say("What is missing, the doctor says, and what to do about it:")
        await story.run("omnilytics doctor --home ./alice", code=1)
        story.say("On the local chain ether is free:")
        await story.run(f"scripts/fund --state {state} {alice}")
        await story.run("omnilytics doctor --home ./alice")
        story.say(
            "All is well, so she starts her daemon. It waits for a task that fits her data and her policy "
            "([policy.md](policy.md)), and joins it:"
        )
        daemon = await story.background(supervisor, "omnilytics owner run --home ./alice", "alice")
        story.say(
            f"A group's sum hides its members, so nobody trains alone. {OTHERS} more owners do the same; they are left "
            "out here."
        )
        await others_join(story, supervisor, market)

        story.say("## A model owner")
        story.say("Bob has labelled rows of his own, `own.csv`, to judge the model by. He too begins with a folder:")
        bob = (await story.run(f"omnilytics init --home ./bob {where}")).strip()
        await story.run(f"scripts/fund --state {state} {bob}")
        story.say(
            "He posts a task with its whole reward in escrow, and trains to its end. `--rounds`, `--groups` and "
            "`--faulty` make it small:"
        )
        small = f"--rounds {ROUNDS} --groups 3 --faulty 0"
        training = asyncio.create_task(
            story.run(f"omnilytics model run --home ./bob --test own.csv --label digit {small}")
        )
        stopping = asyncio.create_task(last_post(daemon))
        done, _ = await asyncio.wait({training, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        code = await daemon.stop(30)
        if code != 0:
            raise UnexpectedError(f"the data owner's daemon ended with code {code}; its log: {daemon.log}")
        await training
        stopping.cancel()
        story.say("What came of it stands in his log:")
        await story.run("omnilytics logs --home ./bob -n 8")
        await story.run("omnilytics tasks list --home ./bob")

        story.say("## What Alice has of it")
        story.say(
            "She had stopped her daemon with Ctrl-C right after her last post; otherwise it would have collected "
            "everything by itself. What she is owed waits in the contract, and her folder remembers what she has given:"
        )
        await story.run("omnilytics earnings --home ./alice")
        await story.run("omnilytics ledger --home ./alice")
        await story.run("omnilytics withdraw --home ./alice")
        await story.run("omnilytics earnings --home ./alice")
        await story.run("omnilytics logs --home ./alice -n 6")


def page(story: Story, seconds: float) -> str:
    """The whole page."""
    told = (
        "Played and written by `scripts/first-minutes`: every line of output is what the command printed, every "
        f"duration was measured, on {os.cpu_count()} cores with other work on them. All of it took {seconds:.0f} s. "
        "All commands: [commands.md](commands.md)."
    )
    place = (
        "`omnilytics` is `.venv/bin/omnilytics` of the clone, after `scripts/setup`; `~/market` a folder of your own."
    )
    head = ["# The first ten minutes", "", told, "", place, ""]
    return "\n".join([*head, *story.lines]).rstrip() + "\n"


async def run(folder: Path, out: Path) -> int:
    with cancelled_by_signals() as received:
        story = Story(folder)
        try:
            await play(story)
        except asyncio.CancelledError:
            if not received:
                raise
            click.echo("stopped", err=True)
            return 1
        except (UnexpectedError, ProcessError) as error:
            click.echo(f"scripts/first-minutes: {error}", err=True)
            return 1
        seconds = time.monotonic() - story.began
        out.write_text(page(story, seconds), encoding="utf-8")
        click.echo(f"{out} is written, after {seconds:.0f} s", err=True)
    return 0


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), default=PAGE, help="Default: the page in docs/."
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the participants live, must be new (default: in runs/).",
)
def main(out: Path, folder: Path | None) -> None:
    """Play a newcomer's first minutes with the real commands and write docs/first-ten-minutes.md from them."""
    place = folder or ROOT / "runs" / time.strftime(f"first-minutes-%Y%m%d-%H%M%S-{os.getpid()}")
    try:
        place.mkdir(parents=True)
    except FileExistsError:
        raise click.UsageError(f"{place} is there already") from None
    sys.exit(asyncio.run(run(place.resolve(), out)))


if __name__ == "__main__":
    main(prog_name="scripts/first-minutes")

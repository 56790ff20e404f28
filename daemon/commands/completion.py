"""omnilytics completion: a shell's script that completes commands and options."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that makes a shell complete omnilytics; the shell reads it at its start.

    \b
    Example: omnilytics completion bash >> ~/.bashrc
    omnilytics completion zsh >> ~/.zshrc
    omnilytics completion fish > ~/.config/fish/completions/omnilytics.fish
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None
    root = click.get_current_context().find_root().command
    source = made(root, {}, "omnilytics", "_OMNILYTICS_COMPLETE")
    # Not source(): for bash that runs bash, to look at its version.
    click.echo(source.source_template % source.source_vars())

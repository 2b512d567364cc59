"""offramp schema: JSON Schemas for editors and other programs."""

from __future__ import annotations

import json

import click


@click.command("schema")
@click.argument("name", type=click.Choice(["study", "result"]), default="study")
def command(name: str) -> None:
    """Prints the JSON Schema of the study file, or of the Result that every command returns."""
    from offramp.app.schema import schema

    click.echo(json.dumps(schema("result" if name == "result" else "study"), indent=2))

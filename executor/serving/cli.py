"""`superinfer-exec serve`: a model behind the interface of OpenAI."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from executor.options import ConfigOptions, LoadingOptions, with_options
from superinfer.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(serve)


@with_options(
    *("trace", "limit", "rate_scale", "without_slo", "skip_bad"),  # there is no trace
    *("prefix_caching", "lag", "as_released"),  # a server has defaults of its own
)
def serve(
    options: ConfigOptions,
    loading: LoadingOptions,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 8000,
    served_model_name: Annotated[
        str, typer.Option(help="What clients call the model.", show_default="--model")
    ] = "",
    chat_template: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Jinja template.", show_default="the model's own"),
    ] = None,
    prefix_caching: Annotated[
        bool | None,
        typer.Option(
            "--prefix-caching/--no-prefix-caching",
            help="Reuse the KV cache of equal prompt beginnings.",
            show_default="prefix-caching",
        ),
    ] = None,
    lag: Annotated[
        int | None,
        typer.Option(min=0, max=1, help="1: plan the next step while one runs.", show_default="1"),
    ] = None,
    max_waiting: Annotated[
        int, typer.Option(min=1, metavar="N", help="More in the queue that are as urgent get 429.")
    ] = 1024,
    api_key: Annotated[
        str,
        typer.Option(envvar="SUPERINFER_API_KEY", help="Key that clients have to show."),
    ] = "",
    shutdown_timeout: Annotated[
        float,
        typer.Option(
            min=0, max=86400, help="Seconds for answers under way after SIGTERM or Ctrl-C."
        ),
    ] = 40.0,
    health_timeout: Annotated[
        float,
        typer.Option(min=0.1, max=86400, help="Seconds of a step after which /health says 503."),
    ] = 300.0,
    metrics_prefix: Annotated[
        str, typer.Option(help="Of metrics' names; vllm: for dashboards of vLLM.")
    ] = "superinfer",
    record: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write what is asked as a trace.")
    ] = None,
) -> None:
    """Serve a model over HTTP, as OpenAI's completions and chat completions."""
    from executor.defaults import named
    from executor.serving.server import Places, serve_command
    from executor.serving.service import Rules
    from superinfer.lab.notices.unused_fields import goes_by_priority

    given = named(options.config, options.settings or ())
    if prefix_caching is None and "run.prefix_caching" not in given:
        prefix_caching = True
    if lag is None and "run.lag" not in given:
        lag = 1
    if not re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", metrics_prefix):
        raise ConfigError(f"--metrics-prefix: expected letters and digits, got {metrics_prefix!r}")
    if api_key != api_key.strip() or not api_key.isprintable():  # no header can show such a one
        raise ConfigError("--api-key: expected text in one line, without spaces around it")
    config = replace(options, prefix_caching=prefix_caching, lag=lag).load()
    rules = Rules(
        served_model_name or config.run.model,
        max_waiting,
        metrics_prefix,
        api_key,
        shutdown_timeout,
        config.run.policies,
        goes_by_priority(config),
        health_timeout,
    )
    places = Places(host, port, record, chat_template)
    raise typer.Exit(serve_command(config, loading.chosen(), rules, places))

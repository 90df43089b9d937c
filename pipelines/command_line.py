"""`parti`, the one program: a TOML file, overrides `key=value`, and Beam's own options after `--`."""

import io
import logging
import sys
from typing import Annotated

import typer

from parti_data.claim import claim
from parti_data.errors import ConfigError, PartiError
from parti_data.storage import join, publish_bytes
from pipelines.run_command import load, read_config, refuse_beam_options, run_job, run_on_ranks, run_stage
from pipelines.stopping import stop_in_one_line

_PROBED = 256
_MOST_ROWS = 256
app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Image-text pairs to token shards, and an autoregressive image prior trained on them.",
)  # fmt: skip
training = typer.Typer(
    no_args_is_help=True,
    help="Train a tokenizer of text or of images, an upsampler, a text encoder, a contrastive model or a prior; find a "
    "palette.",
)
app.add_typer(training, name="train")

Arguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG.toml] [KEY=VALUE]…", help="A config file, then overrides such as output=runs/a."),
]


def _refuse_empty(argument: typer.CallbackParam, path: str) -> str:
    if not path:
        raise ConfigError(f"{argument.metavar}: expected a path, found an empty one; see if its shell variable is set")
    return path


Directory = Annotated[str, typer.Argument(metavar="DIR", callback=_refuse_empty)]


@app.command("filter")
def filter_command(
    context: typer.Context,
    arguments: Arguments = None,
    rejudge: Annotated[
        bool, typer.Option("--rejudge", help="Judge what an earlier run measured by other rules; read no image.")
    ] = False,
    retry_reason: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REASON",
            help="Read again only the rows that an earlier run dropped as image_missing, image_unreadable, "
            "image_undecodable, source_unreadable, or under limits that are now looser; may be given several times.",
        ),
    ] = None,
) -> None:
    """Measure and judge every pair of a source; write the ledger. Beam's options go after --."""
    stage = load("pipelines.filter")
    manifest = run_stage(context, stage.filter_pairs, stage.FilterConfig, arguments, rejudge, retry_reason or [])
    if skipped := manifest.details.get("skipped"):
        print(
            f"filter: {len(skipped)} of {len(manifest.details['kept'])} files skipped ({skipped[0]['path']}: "
            f"{skipped[0]['error']}); once they are mended, add --retry-reason source_unreadable"
        )


@app.command("shard")
def shard_command(context: typer.Context, arguments: Arguments = None) -> None:
    """Copy kept pairs into WebDataset tars of equal size. Beam's options go after --."""
    stage = load("pipelines.shard")
    run_stage(context, stage.shard_pairs, stage.ShardConfig, arguments)


@app.command("tokenize")
def tokenize_command(
    context: typer.Context,
    arguments: Arguments = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Say how many tokens the chosen precision changes; write nothing.")
    ] = False,
    pairs: Annotated[
        int | None, typer.Option("--pairs", min=1, help="How many pairs, or views of them, to probe: 256 unless told.")
    ] = None,
) -> None:
    """Encode kept pairs as token shards, shuffled over all. Beam's options go after --."""
    stage = load("pipelines.tokenize")
    if probe:
        refuse_beam_options(context)
        prober = load("pipelines.probe_tokenizer")
        config = read_config(stage.TokenizeConfig, [*(arguments or []), "output=none"])  # none is needed
        for line in prober.probe_lines(prober.probe_tokenizer(config, pairs or _PROBED)):
            print(line)
        return
    if pairs is not None:
        raise ConfigError("--pairs: expected with --probe alone, found without; add --probe or leave it out")
    run_stage(context, stage.tokenize_pairs, stage.TokenizeConfig, arguments)


@app.command("export")
def export_command(context: typer.Context, arguments: Arguments = None) -> None:
    """Write token shards as WebDataset tars or as a data set of Hugging Face. Beam's options go after --."""
    stage = load("pipelines.export")
    run_stage(context, stage.export_tokens, stage.ExportConfig, arguments)


@app.command("import-tokens")
def import_tokens_command(context: typer.Context, arguments: Arguments = None) -> None:
    """Make token shards of tokens that another project made. Beam's options go after --."""
    stage = load("pipelines.import_tokens")
    run_stage(context, stage.import_tokens, stage.ImportTokensConfig, arguments)


@training.command("text")
def train_text_command(context: typer.Context, arguments: Arguments = None) -> None:
    """Train SentencePiece on the captions of kept pairs."""
    job = load("model.training.train_text")
    run_job(context, job.train_text, job.TrainTextConfig, arguments)


@training.command("palette")
def train_palette_command(context: typer.Context, arguments: Arguments = None) -> None:
    """Find the colours of iGPT's image tokenizer in images, by k-means."""
    job = load("model.training.train_palette")
    run_job(context, job.train_palette, job.TrainPaletteConfig, arguments)


@training.command("tokenizer")
def train_tokenizer_command(context: typer.Context, arguments: Arguments = None) -> None:
    """Train a ViT-VQGAN on images; under torchrun in several processes."""
    job = load("model.training.train_tokenizer")
    run_on_ranks(context, job.train_tokenizer, job.TrainTokenizerConfig, arguments)


@training.command("dvae")
def train_dvae_command(context: typer.Context, arguments: Arguments = None) -> None:
    """Train DALL-E's discrete VAE on images; under torchrun in several processes."""
    job = load("model.training.train_dvae")
    run_on_ranks(context, job.train_dvae, job.TrainDVAEConfig, arguments)


@training.command("upsampler")
def train_upsampler_command(context: typer.Context, arguments: Arguments = None) -> None:
    """Train a WDSR on the reconstructions of an image tokenizer; under torchrun in several processes."""
    job = load("model.training.train_upsampler")
    run_on_ranks(context, job.train_upsampler, job.TrainUpsamplerConfig, arguments)


@training.command("text-encoder")
def train_text_encoder_command(context: typer.Context, arguments: Arguments = None) -> None:
    """Train a prior's text encoder to tell masked ids of text; under torchrun in several processes."""
    job = load("model.training.train_text_encoder")
    run_on_ranks(context, job.train_text_encoder, job.TrainTextEncoderConfig, arguments)


@training.command("contrastive")
def train_contrastive_command(context: typer.Context, arguments: Arguments = None) -> None:
    """Train a text encoder and a tower of image tokens to tell pairs; under torchrun in several processes."""
    job = load("model.training.train_contrastive")
    run_on_ranks(context, job.train_contrastive, job.TrainContrastiveConfig, arguments)


@training.command("prior")
def train_prior_command(context: typer.Context, arguments: Arguments = None) -> None:
    """Train a prior on token shards, a Parti or one of its relatives; under torchrun in several processes."""
    job = load("model.training.train_prior")
    run_on_ranks(context, job.train_prior, job.TrainPriorConfig, arguments)


@app.command("sample")
def sample_command(context: typer.Context, arguments: Arguments = None) -> None:
    """Sample images for prompts, whole or from given rows on, and keep the best: PNGs, a grid, a table of tokens."""
    job = load("model.sampling.sample")
    run_job(context, job.sample, job.SampleConfig, arguments)


@app.command("evaluate")
def evaluate_command(
    context: typer.Context,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[probe] [CONFIG.toml] [KEY=VALUE]…",
            help="probe, for the linear probe, whose config is its own; a config file, then overrides.",
        ),
    ] = None,
) -> None:
    """Measure a prior and its samples: held-out loss, FID, CLIP score, a page, whatever the config names.

    With probe first: how well a linear map tells an image's class from what the blocks of a prior make of it.
    """
    is_probe = (arguments or [""])[0] == "probe"
    job = load("model.evaluation.probe" if is_probe else "model.evaluation.evaluate")
    run, model = (job.probe, job.ProbeConfig) if is_probe else (job.evaluate, job.EvaluateConfig)
    manifest = run_job(context, run, model, arguments[1:] if arguments and is_probe else arguments)
    for line in job.figure_lines(manifest):
        print(line)


@app.command("verify")
def verify_command(
    directory: Directory,
    sample: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="How many pictures of token shards to make again, about."),
    ] = 64,
) -> None:
    """Check a finished directory: files, digests, rows, and tokens against their tokenizer."""
    for line in load("pipelines.verify").verify(directory, sample):
        print(line)


@app.command("inspect")
def inspect_command(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH", help="A directory of token shards, or one of its files.", callback=_refuse_empty
        ),
    ],
    rows: Annotated[int, typer.Option("--rows", min=1, max=_MOST_ROWS, help="How many rows to show.")] = 4,
    picture: Annotated[
        str,
        typer.Option("--picture", metavar="FILE.png", help="Draw as many rows, decoded, spread over what was read."),
    ] = "",
    tokenizer: Annotated[
        str, typer.Option("--tokenizer", metavar="FILE", help="What decodes them, unless the manifest's is in place.")
    ] = "",
    read_all: Annotated[bool, typer.Option("--all", help="Read every row group, not some spread over all.")] = False,
) -> None:
    """Say what token shards hold: columns, metadata, counts, texts, codes, a few rows."""
    if tokenizer and not picture:
        raise ConfigError("--tokenizer: expected with --picture alone, found without; add --picture=FILE.png")
    if picture and not picture.endswith(".png"):
        raise ConfigError(f"--picture: expected a name that ends in .png, found {picture}; add it")
    inspect = load("pipelines.inspect")
    found = inspect.inspect_shards(path, rows, read_all)
    for line in inspect.inspection_lines(found):
        print(line)
    if picture:
        load("model.tokenizers")
        publish_bytes(picture, inspect.draw_rows(found.shards, found.spread_rows, tokenizer))
        print(f"\n{picture}: {len(found.spread_rows)} rows")


@app.command("forget")
def forget_command(
    directory: Annotated[
        str, typer.Argument(metavar="DIR", help="A directory of stages, or one stage's.", callback=_refuse_empty)
    ],
    key: Annotated[list[str] | None, typer.Option(metavar="KEY", help="An image, by its key in the ledger.")] = None,
    url: Annotated[list[str] | None, typer.Option(metavar="URL", help="The rows with this address.")] = None,
    host: Annotated[
        list[str] | None, typer.Option(metavar="HOST", help="The rows with addresses of this host and its subdomains.")
    ] = None,
    listed: Annotated[
        list[str] | None, typer.Option("--list", metavar="FILE", help="A file with a key, URL or host a line.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be rewritten; write nothing.")] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Forget the others where some names have no row.")
    ] = False,
) -> None:
    """Remove rows from everything that was written, for requests to take down; prove that nothing else changed.

    Each option but the last two may be given several times. Stopped? Run the same command again.
    """
    job = load("pipelines.forget")
    names = job.read_names(key or [], url or [], host or [], listed or [])
    with stop_in_one_line(directory):
        pages = job.forget(directory, names, options=job.Options(dry_run, allow_missing))
    for folder in pages:
        print(load("pipelines.report").write_report(join(directory, folder) if folder else directory))


@app.command("report")
def report_command(directory: Directory) -> None:
    """Write report.html: one page on all stages found in a directory."""
    print(load("pipelines.report").write_report(directory))


@app.command("plan")
def plan_command(
    context: typer.Context,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[filter|shard|tokenize] [CONFIG.toml] [KEY=VALUE]…",
            help="The stage, where its config does not tell it; a config file, then overrides.",
        ),
    ] = None,
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="How many pairs to measure.")] = 200,
) -> None:
    """Measure some pairs; say what filter, shard or tokenize would take on this machine. Nothing is written."""
    choice = load("pipelines.plan.choose_stage")
    stage, rest = choice.choose_stage(arguments or [])
    runner = load("pipelines.runner")
    workers = runner.local_workers(runner.parse_options(context.obj))
    model = getattr(load(f"pipelines.{stage}"), choice.STAGES[stage])
    config = read_config(model, [*rest, "output=none"])  # none is needed
    plan = getattr(load(f"pipelines.plan.plan_{stage}"), f"plan_{stage}")(config, pairs, workers)
    for line in load("pipelines.plan.say").plan_lines(plan):
        print(line)


@app.command("demo")
def demo_command(context: typer.Context, arguments: Arguments = None) -> None:
    """Run everything on synthetic scenes: filter to report, in eleven to nineteen minutes on two cores."""
    job = load("pipelines.demo")
    refuse_beam_options(context)
    config = read_config(job.DemoConfig, arguments)
    with claim(config.output):
        job.run_demo(config)


def main(arguments: list[str] | None = None) -> None:
    """Run the program; exits 0 done, 1 failed, 2 wrong usage or config, 130 and 143 stopped by Ctrl-C or SIGTERM."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # captions of any script, on a terminal of few
    logging.getLogger().setLevel(logging.CRITICAL)  # Beam warns of clients that are not asked for
    for name in ("apache_beam", "gcsfs"):  # which log with a traceback what they then raise
        logging.getLogger(name).setLevel(logging.CRITICAL)
    split = arguments.index("--") if "--" in arguments else len(arguments)
    try:
        app(args=arguments[:split], obj=arguments[split + 1 :])
    except PartiError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)


if __name__ == "__main__":
    main()

"""`triptych import`: published weights to a checkpoint. What does the work is looked up when it is asked for: it needs
torch, which the base install leaves out."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from triptych.errors import FailedPrecondition

IMPORTERS: Final = {
    "genllava": ("triptych.models.published.genllava", "import_genllava"),
    "llava": ("triptych.models.published.llava", "import_llava"),
}

Reported = Callable[[], AbstractContextManager[None]]
Output = Annotated[Path, typer.Option("--output", "-o", help="checkpoint folder to write; must not exist")]
Seed = Annotated[
    int, typer.Option(min=0, max=2**63 - 1, help="of what is fresh: same folders and seed, same checkpoint")
]


def import_app(reported: Reported) -> typer.Typer:
    """The subcommands; `reported` turns errors into messages and exit codes."""
    app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Make a checkpoint from published weights.")

    @app.command()
    def genllava(
        vision: Annotated[Path, typer.Option(help="folder of SigLIP (or CLIP), as transformers writes it")],
        llm: Annotated[Path, typer.Option(help="folder of Mistral (or Llama), as transformers writes it")],
        diffusion: Annotated[Path, typer.Option(help="folder of Stable Diffusion 1.x, as diffusers writes it")],
        output: Output,
        seed: Seed = 0,
    ) -> None:
        """GenLLaVA before its training: SigLIP, Mistral and Stable Diffusion, with fresh parts between them."""
        with reported():
            _run("genllava", vision=vision, llm=llm, diffusion=diffusion, out=output, seed=seed)

    @app.command()
    def llava(
        model: Annotated[Path, typer.Option(help="folder of LLaVA-1.5, as transformers writes it")],
        output: Output,
        seed: Seed = 0,
    ) -> None:
        """LLaVA-1.5, which answers questions about pictures as it is."""
        with reported():
            _run("llava", model=model, out=output, seed=seed)

    return app


def _run(name: str, **arguments: Any) -> None:
    module, function = IMPORTERS[name]
    try:
        importer = getattr(import_module(module), function)
    except ModuleNotFoundError as error:
        raise FailedPrecondition(f"{error}: importing needs more, pip install 'triptych[models]'") from error
    importer(**arguments)
    print(arguments["out"])

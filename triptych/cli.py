"""The `triptych` command. Exit codes: 0 ok, 1 error on the server's side, 2 usage or bad input, 3 unavailable."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Final, NoReturn, get_args

import typer

from triptych import __version__
from triptych.access import VARIABLES, Access
from triptych.chat import Chat
from triptych.client import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S, Client
from triptych.console import Printer, note, print_components
from triptych.errors import (
    CheckpointError,
    InvalidArgument,
    PermissionDenied,
    TriptychError,
    Unauthenticated,
    Unavailable,
)
from triptych.evaluate_command import evaluate
from triptych.export_command import export
from triptych.health import check_health
from triptych.imports import import_app
from triptych.keys_command import keys_app
from triptych.output import check_output
from triptych.replies import Drawing, Preview
from triptych.requests import ImageSource, Params, Task
from triptych.train_command import SETTINGS, train
from triptych.upgrade_command import number, pairs, upgrade

EXIT_SERVER_ERROR: Final = 1
EXIT_BAD_INPUT: Final = 2
EXIT_UNAVAILABLE: Final = 3

ACCESS: Final[ContextVar[Access]] = ContextVar("access")  # from the options before the command

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)

Address = Annotated[str, typer.Option(envvar="TRIPTYCH_ADDRESS", help="host:port of the orchestrator")]
Timeout = Annotated[float, typer.Option(min=0.001, max=1e9, help="seconds until a call is given up")]
Seed = Annotated[int | None, typer.Option(help="same seed, same result; drawn by the server when absent")]
Steps = Annotated[int | None, typer.Option(help="denoising steps; the model's own default when absent")]
Guidance = Annotated[float | None, typer.Option(help="how strongly to follow the text; 1 switches guidance off")]
Temperature = Annotated[float | None, typer.Option(help="0 always takes the likeliest token")]
MaxTokens = Annotated[int | None, typer.Option(help="longest answer, in tokens")]
Pictures = Annotated[
    list[Path],
    typer.Argument(metavar="IMAGE", default_factory=list, show_default=False, help="pictures to look at"),
]
TLS_DIR_HELP: Final = "folder with ca.crt and, for mTLS, tls.crt and tls.key"
Output = Annotated[Path, typer.Option("--output", "-o", help="file to write the picture to")]
Previews = Annotated[
    int | None, typer.Option(help="write a rough preview next to the output every so many steps, as NAME.preview.png")
]


def main() -> None:
    """Entry point of the `triptych` command."""
    app(prog_name="triptych")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"triptych {__version__}")
        raise typer.Exit


@app.callback()
def triptych(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version and exit")
    ] = False,
    tls_dir: Annotated[Path | None, typer.Option(envvar=VARIABLES["tls_dir"], help=TLS_DIR_HELP)] = None,
    tls_ca: Annotated[Path | None, typer.Option(envvar=VARIABLES["tls_ca"], help="authority to trust (PEM)")] = None,
    tls_cert: Annotated[Path | None, typer.Option(envvar=VARIABLES["tls_cert"], help="certificate to show")] = None,
    tls_key: Annotated[Path | None, typer.Option(envvar=VARIABLES["tls_key"], help="its key")] = None,
    tls_server_name: Annotated[
        str, typer.Option(envvar=VARIABLES["tls_server_name"], help="name that the server's certificate must carry")
    ] = "",
    api_key_file: Annotated[
        Path | None, typer.Option(envvar=VARIABLES["api_key_file"], help="file with the API key or JWT to send")
    ] = None,
) -> None:
    """Serve unified multimodal models, and talk to them: ask about pictures, draw, edit, chat."""
    access = Access.from_environment().overridden(
        tls_dir=tls_dir,
        tls_ca=tls_ca,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_server_name=tls_server_name,
        api_key_file=api_key_file,
    )
    ACCESS.set(access)


@app.command()
def ask(
    images: Pictures,
    question: Annotated[str, typer.Argument(help="what to ask about them")],
    address: Address = DEFAULT_ADDRESS,
    timeout_s: Timeout = DEFAULT_TIMEOUT_S,
    seed: Seed = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
) -> None:
    """Ask a question about pictures. The answer goes to stdout."""
    params = Params(seed=seed, temperature=temperature, max_tokens=max_tokens)
    with _reported(), _client(address, timeout_s) as client:
        Printer(_unexpected).show(client.stream(question, images, "understand", params))


@app.command()
def draw(
    text: Annotated[str, typer.Argument(help="what to draw")],
    output: Output,
    address: Address = DEFAULT_ADDRESS,
    timeout_s: Timeout = DEFAULT_TIMEOUT_S,
    seed: Seed = None,
    steps: Steps = None,
    guidance: Guidance = None,
    preview_interval: Previews = None,
) -> None:
    """Draw a picture from a description. Its path goes to stdout."""
    params = Params(seed=seed, steps=steps, guidance=guidance, preview_interval=preview_interval)
    _make(text, (), "generate", output, params, address, timeout_s)


@app.command()
def edit(
    image: Annotated[Path, typer.Argument(help="the picture to change")],
    instruction: Annotated[str, typer.Argument(help="what to change")],
    output: Output,
    address: Address = DEFAULT_ADDRESS,
    timeout_s: Timeout = DEFAULT_TIMEOUT_S,
    seed: Seed = None,
    steps: Steps = None,
    guidance: Guidance = None,
    preview_interval: Previews = None,
) -> None:
    """Change a picture as told. The new one's path goes to stdout."""
    params = Params(seed=seed, steps=steps, guidance=guidance, preview_interval=preview_interval)
    _make(instruction, (image,), "edit", output, params, address, timeout_s)


@app.command()
def chat(
    output_dir: Annotated[Path, typer.Option(help="folder for the pictures that are drawn")] = Path(),
    task: Annotated[str, typer.Option(help=f"what to start with: {', '.join(get_args(Task))}")] = "auto",
    address: Address = DEFAULT_ADDRESS,
    timeout_s: Timeout = DEFAULT_TIMEOUT_S,
    seed: Seed = None,
    steps: Steps = None,
    guidance: Guidance = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
) -> None:
    """Talk with the model, pictures both ways.

    /image PATH attaches a picture, /task says what is asked, /quit ends.
    """
    params = Params(seed=seed, steps=steps, guidance=guidance, temperature=temperature, max_tokens=max_tokens)
    with _reported(), _client(address, timeout_s) as client:
        Chat(client, output_dir, task, params).run()


@app.command()
def status(address: Address = DEFAULT_ADDRESS, timeout_s: Timeout = 10.0) -> None:
    """Show all replicas and which ones work together."""
    with _reported(), _client(address, timeout_s) as client:
        print_components(client.components())


@app.command()
def up(
    checkpoint: Annotated[Path, typer.Option(help="folder with system.json, encoder, llm and decoder")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="where to listen; 0 picks a free port")] = 50050,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, f32 or bf16")] = "auto",
    log_dir: Annotated[
        Path | None, typer.Option(help="folder for the services' logs; a temporary one if absent")
    ] = None,
    start_timeout_s: Annotated[float, typer.Option(min=1, help="how long loading may take")] = 300,
    tls: Annotated[bool, typer.Option("--tls", help="make certificates and use them everywhere (mTLS)")] = False,
    replicas: Annotated[
        list[str] | None, typer.Option(metavar="COMPONENT=N", help="how many of a component; one if absent")
    ] = None,
) -> None:
    """Start the whole system on this machine. Ctrl-C stops it; `triptych upgrade` changes its components."""
    from triptych.up import LocalSystem  # needs the services, which the base install leaves out

    with _reported(), _interruptible():
        system = LocalSystem(
            checkpoint,
            port=port,
            device=device,
            dtype=dtype,
            log_dir=log_dir,
            start_timeout_s=start_timeout_s,
            tls=tls,
            replicas={name: number(text, "--replicas") for name, text in pairs(replicas or (), "--replicas").items()},
        )
        try:
            note(f"starting; logs are in {system.log_dir}")
            if system.tls_dir is not None:
                note(f"callers need --tls-dir {system.tls_dir}")
            print(system.start(), flush=True)
            note("serving; Ctrl-C stops")
            system.wait()
        except KeyboardInterrupt:
            note("stopping")
        finally:
            system.stop()


@app.command()
def health(
    address: Address = DEFAULT_ADDRESS,
    service: Annotated[str, typer.Option(help="gRPC service to ask about; the whole process if absent")] = "",
    timeout_s: Timeout = 5.0,
) -> None:
    """Ask any of the processes whether it serves, as a probe does. Exit code 0 if so, 3 if not."""
    with _reported():
        print(check_health(address, ACCESS.get(), service, timeout_s))


def _client(address: str, timeout_s: float) -> Client:
    return Client(address, timeout_s=timeout_s, access=ACCESS.get())


def _make(
    text: str,
    images: tuple[ImageSource, ...],
    task: Task,
    output: Path,
    params: Params,
    address: str,
    timeout_s: float,
) -> None:
    saved: list[Path] = []

    def save(drawing: Drawing) -> Path:
        path = output if not saved else output.with_stem(f"{output.stem}-{len(saved) + 1}")
        drawing.save(path)
        saved.append(path)
        return path

    def save_preview(preview: Preview) -> None:
        output.with_suffix(".preview.png").write_bytes(preview.png)

    with _reported(), _client(address, timeout_s) as client:
        check_output(output)
        Printer(save, save_preview).show(client.stream(text, images, task, params))
        if not saved:
            raise TriptychError("the reply holds no picture")


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and SIGINT both raise KeyboardInterrupt; also where a background job inherited it ignored."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _unexpected(drawing: Drawing) -> NoReturn:
    raise TriptychError(f"image {drawing.index} came although none was asked for")


@contextmanager
def _reported() -> Iterator[None]:
    """Errors as one line on stderr and an exit code."""
    try:
        yield
    except TriptychError as error:
        stage = f" [{error.stage}]" if error.stage else ""
        note(f"error{stage}: {error}")
        raise typer.Exit(_exit_code(error)) from None
    except BrokenPipeError:  # `triptych ask ... | head`: typer ends quietly
        raise
    except OSError as error:
        note(f"error: {error}")
        raise typer.Exit(EXIT_BAD_INPUT) from None
    except UnicodeError as error:  # an argument, or a line of stdin
        note(f"error: not UTF-8: {error}")
        raise typer.Exit(EXIT_BAD_INPUT) from None


app.command()(_reported()(export))
app.command(context_settings=SETTINGS)(_reported()(train))
app.command()(_reported()(evaluate))
app.command()(_reported()(upgrade))


def _exit_code(error: TriptychError) -> int:
    if isinstance(error, InvalidArgument | CheckpointError | Unauthenticated | PermissionDenied):
        return EXIT_BAD_INPUT
    return EXIT_UNAVAILABLE if isinstance(error, Unavailable) else EXIT_SERVER_ERROR


app.add_typer(import_app(_reported), name="import")
app.add_typer(keys_app(_reported), name="keys")

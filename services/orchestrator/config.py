"""Settings of the orchestrator."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from services.orchestrator.discovery.file import check_address
from services.orchestrator.tokens import TokenRules
from services.orchestrator.trial import Rules
from triptych.errors import InvalidArgument
from triptych.serving.config import ServingConfig
from triptych.tls import TlsFiles


def _split(value: object) -> object:
    """Comma-separated text, alone or as the one entry a flag arrives as, to its parts."""
    values = [value] if isinstance(value, str) else value
    if isinstance(values, list | tuple):
        return tuple(part.strip() for entry in values for part in str(entry).split(",") if part.strip())
    return value


def _check_addresses(addresses: tuple[str, ...]) -> tuple[str, ...]:
    for address in addresses:
        check_address(address)
    return addresses


Addresses = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_check_addresses)]


class OrchestratorConfig(ServingConfig):
    """`max_queue_size` bounds the requests waiting in front of `max_num_requests` running ones, `max_admitted_bytes`
    the messages of both."""

    model_config = SettingsConfigDict(env_prefix="ORCHESTRATOR_")

    encoder_addresses: Addresses = Field(
        (), description="host:port of each encoder, comma-separated; a name may stand for many"
    )
    llm_addresses: Addresses = Field((), description="host:port of each LLM")
    decoder_addresses: Addresses = Field((), description="host:port of each decoder")
    addresses_file: Path | None = Field(
        None, description="JSON, stage to list of host:port; read again when it changes; instead of the addresses above"
    )
    kubernetes_selector: str = Field(
        "",
        description="labels of the Services whose EndpointSlices are watched, as app.kubernetes.io/instance=NAME; "
        "instead of addresses",
    )
    kubernetes_namespace: str = Field("", description="where those Services are; by default where this pod is")
    poll_interval_ms: int = Field(250, ge=10, description="how often each replica is asked for card, health and load")
    silence_ms: int = Field(
        700, ge=50, description="a replica that is asked and says nothing for this long is given up"
    )
    silence_alone_ms: int = Field(5000, ge=50, description="the same where no other replica could take over")
    retry_ratio: float = Field(0.2, ge=0, description="lost or refused calls tried again, as a share of all calls")
    retry_burst: int = Field(128, ge=0, description="retries saved up for when a replica dies with all it has")
    encoder_timeout_s: float = Field(120, gt=0, description="longest Encode call")
    llm_timeout_s: float = Field(1800, gt=0, description="longest Generate call, drawing included")
    decoder_timeout_s: float = Field(900, gt=0, description="longest Decode call")
    write_timeout_s: float = Field(
        60, gt=0, description="how long a caller may leave a message unread; then the call is ended with CANCELLED"
    )
    max_num_requests: int = Field(64, ge=1, description="requests served at a time")
    max_admitted_bytes: int = Field(
        256 * 2**20, ge=1, description="messages of all requests served and waiting; one more is RESOURCE_EXHAUSTED"
    )
    max_messages: int = Field(256, ge=1, description="messages in one conversation")
    max_text_chars: int = Field(200_000, ge=1, description="characters in one conversation")
    max_images_per_request: int = Field(16, ge=0, description="images in one conversation")
    max_image_bytes: int = Field(20 * 2**20, ge=1, description="largest encoded image")
    max_pixels: int = Field(16 * 2**20, ge=1, description="largest image; a larger one is refused before it is decoded")
    num_image_threads: int = Field(2, ge=1, description="images decoded at a time")
    max_decoded_bytes: int = Field(
        128 * 2**20, ge=1, description="pictures decoded for encoders at a time, in bytes; more wait for their turn"
    )
    embedding_cache_bytes: int = Field(512 * 2**20, ge=0, description="memory for embeddings already computed; 0: off")

    trial_calls: int = Field(
        20, ge=0, description="calls a new generation must serve well beside an older one; 0: no trials"
    )
    trial_s: float = Field(60, gt=0, description="a trial is passed after that long, if fewer calls came")
    trial_share: float = Field(0.25, ge=0, le=1, description="of the requests, at most, while on trial")
    trial_max_failures: float = Field(0.1, ge=0, le=1, description="share of its calls, above the older generation's")
    trial_max_slowdown: float = Field(
        3, ge=0, description="time for a unit of work over the older generation's; 0: any"
    )

    components_tls: bool = Field(
        True, description="call the components with the same certificates, where there are any"
    )

    keys_file: Path | None = Field(None, description="API keys, as `triptych keys` writes them; callers then need one")
    jwt_jwks: str = Field("", description="keys of an OIDC provider, https URL or file; callers may then show a JWT")
    jwt_issuer: str = Field("", description="the issuer that a JWT must name")
    jwt_audience: str = Field("", description="the audience that a JWT must name")
    jwt_scope: str = Field("", description="a scope that a JWT must have; none if empty")
    jwt_per_minute: int = Field(0, ge=0, description="requests of one subject in a minute; 0: as many as come")
    jwt_per_day: int = Field(0, ge=0, description="requests of one subject in a day (UTC); 0: as many as come")

    @model_validator(mode="after")
    def _check_discovery(self) -> Self:
        ways = [any(self.addresses.values()), self.addresses_file is not None, bool(self.kubernetes_selector)]
        if sum(ways) > 1:
            raise ValueError("give one of addresses, addresses-file and kubernetes-selector")
        return self

    @model_validator(mode="after")
    def _check_tokens(self) -> Self:
        try:
            _ = self.token_rules
        except InvalidArgument as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def token_rules(self) -> TokenRules | None:
        """None: no JWTs."""
        if not self.jwt_jwks:
            return None
        return TokenRules(self.jwt_jwks, self.jwt_issuer, self.jwt_audience, self.jwt_scope)

    @property
    def trial_rules(self) -> Rules:
        return Rules(self.trial_calls, self.trial_s, self.trial_share, self.trial_max_failures, self.trial_max_slowdown)

    @property
    def component_tls(self) -> TlsFiles | None:
        return self.tls if self.components_tls else None

    @property
    def addresses(self) -> dict[str, tuple[str, ...]]:
        return {"encoder": self.encoder_addresses, "llm": self.llm_addresses, "decoder": self.decoder_addresses}

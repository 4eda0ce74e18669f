"""Readers of published data sets. A new one is one file and one row."""

from triptych.registry import Registry

SOURCES = Registry(
    "source type",
    {
        "llava": "services.trainer.data.sources.llava:LlavaSource",
        "instructpix2pix": "services.trainer.data.sources.instructpix2pix:InstructPix2PixSource",
        "captions": "services.trainer.data.sources.captions:CaptionsSource",
        "sharegpt": "services.trainer.data.sources.sharegpt:ShareGptSource",
        "documents": "services.trainer.data.sources.documents:DocumentsSource",
        "parquet": "services.trainer.data.sources.parquet:ParquetSource",
        "generated": "services.trainer.data.sources.generated:GeneratedSource",
    },
)

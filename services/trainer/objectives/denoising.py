"""L_gen: the frozen UNet's denoising loss on target pictures, whose gradients go to the conditioning alone."""

import random

import torch
from torch import Tensor, nn

from services.trainer.data.collate import TuningBatch
from services.trainer.objectives.diffusion import denoising_target
from triptych.models.decoder_stage import DecoderStage


class Denoiser:
    """UNet and VAE on a device, the UNet as `dtype`; chance comes from a picture's name alone, so that it does not
    matter who computes it."""

    def __init__(self, stage: DecoderStage, device: torch.device, dtype: torch.dtype, checkpointing: bool) -> None:
        self.decoder, self.dtype = stage.decoder, dtype
        nn.Module.to(self.decoder.unet, device, dtype)  # diffusers' own warns of what is not the case here
        self.decoder.vae.to(device)
        self.null_conditioning = stage.null_conditioning.to(device)
        self.noise_scheduler = self.decoder.forward_process()
        if checkpointing:
            self.decoder.unet.enable_gradient_checkpointing()

    def losses(self, batch: TuningBatch, conditioning_MLC: Tensor, seed: str, dropout: float) -> Tensor:
        """Mean squared errors of the pictures, added up. `dropout` is the share of pictures denoised from the null
        conditioning instead, which teaches a frozen UNet nothing: there, only fewer pictures count."""
        draws = [self._draw(f"{seed}/{name}", dropout) for name in batch.target_names]
        noise = torch.stack([draw[0] for draw in draws]).to(batch.targets)
        posterior = torch.stack([draw[1] for draw in draws]).to(batch.targets)
        timesteps = torch.tensor([draw[2] for draw in draws], device=noise.device)
        dropped = torch.tensor([draw[3] for draw in draws], device=noise.device)
        with torch.no_grad():
            latents = self.decoder.encode(batch.targets, posterior)
        noisy = self.noise_scheduler.add_noise(latents, noise, timesteps)
        given = torch.where(dropped[:, None, None], self.null_conditioning.to(conditioning_MLC), conditioning_MLC)
        predicted = self.decoder(noisy.to(self.dtype), timesteps, given.to(self.dtype)).float()
        wanted = denoising_target(self.noise_scheduler, latents, noise, timesteps)
        errors: Tensor = predicted - wanted
        return errors.square().flatten(1).mean(1).sum()

    def _draw(self, name: str, dropout: float) -> tuple[Tensor, Tensor, int, bool]:
        """Noise, the VAE posterior's noise, the timestep, whether the condition is dropped: of one picture."""
        rng = random.Random(name)
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        noise, posterior = torch.randn((2, *self.decoder.latent_shape), generator=generator)
        timestep = rng.randrange(self.noise_scheduler.config.num_train_timesteps)
        return noise, posterior, timestep, rng.random() < dropout

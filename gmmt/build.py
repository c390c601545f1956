"""Trackers and generators, made as a configuration says."""

from gmmt.config import Config, class_of
from gmmt.fusion import Fusion, make_fusion
from gmmt.schedule import Schedule
from gmmt.trackers.base import Tracker


def make_tracker(config: Config) -> Tracker:
    """Returns the untrained tracker, without GMMT; its weights are drawn from torch's generator."""
    return class_of(config.tracker)(**config.tracker.args)


def make_generator(config: Config, channels: int, modalities: int = 2) -> Fusion | None:
    """Returns the untrained GMMT for features of `channels` channels; None where the configuration
    has none.
    """
    generator = config.generator
    if generator is None:
        return None
    network = class_of(generator.network)(channels, **generator.network.args)
    options = {}
    if generator.variant == "CGAN":
        d = generator.discriminator
        options["discriminator"] = class_of(d)(channels, **d.args)
    if generator.variant == "DM":
        make_schedule = {"cosine": Schedule.cosine, "linear": Schedule.linear}
        options["schedule"] = make_schedule[generator.schedule.kind](generator.schedule.T)
        for name in ("target", "weighting", "track_t", "time"):
            options[name] = getattr(generator, name)
    return make_fusion(generator.variant, network, channels, modalities=modalities, **options)

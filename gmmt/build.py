"""Trackers and generators, made as a configuration says."""

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path

from gmmt.config import Config, class_of
from gmmt.errors import SettingError, WeightsError
from gmmt.fusion import Fusion, make_fusion
from gmmt.schedule import Schedule
from gmmt.trackers.base import Tracker


def make_tracker(config: Config) -> Tracker:
    """Returns the untrained tracker, without GMMT; its weights are drawn from torch's generator.
    SettingError: there is none of such arguments.
    """
    with _named(config):
        return class_of(config.tracker)(**config.tracker.args)


@contextlib.contextmanager
def _named(config: Config) -> Iterator[None]:
    """Turns what a constructor says of its arguments into an error that names the row."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError) as error:
        if isinstance(error, SettingError):
            raise
        raise SettingError(f"{config.name}: its networks cannot be made: {error}") from error


def make_generator(config: Config, channels: int, modalities: int = 2) -> Fusion | None:
    """Returns the untrained GMMT for features of `channels` channels; None where the configuration
    has none. SettingError: there is none of such arguments.
    """
    generator = config.generator
    if generator is None:
        return None
    with _named(config):
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


def start_file(config: Config) -> Path:
    """Returns the file of official weights that a configuration starts from; SettingError: it is
    not said where that is, or it is not there.
    """
    path = Path(config.start.file).expanduser()
    if not config.start.file or not path.is_file():
        there = f"there is no file {path}" if config.start.file else "say where they are"
        raise SettingError(
            f"{config.name} starts from official weights ({config.start.kind}); {there}: "
            "--set start.file=FILE. 'gmmt fetch weights' lists where to get them"
        )
    return path


def take_official(tracker: Tracker, config: Config) -> None:
    """Gives a tracker the official weights that its configuration starts from; heads of its own
    stay as they are.

    WeightsError: see `load_official`; SettingError: the tracker has no use for such weights.
    """
    from gmmt.trackers.official import KINDS, load_official, without_prefix
    from gmmt.trackers.siamese import Siamese
    from gmmt.trackers.torch_file import read_state

    kind, path = config.start.kind, start_file(config)
    if isinstance(tracker, Siamese) and kind == "resnet50":
        state = without_prefix(read_state(path))
        for backbone in tracker.backbone.values():
            own = {name: state[name] for name in backbone.state_dict() if name in state}
            try:
                backbone.load_state_dict(own)
            except RuntimeError as error:
                raise WeightsError(
                    f"{path}: expected the ResNet-50 of SiamBAN (data_manifests/weights.json): "
                    f"{error!s:.1000}"
                ) from None
    elif kind in KINDS and isinstance(tracker, KINDS[kind]):
        official = load_official(kind, path, **config.tracker.args)
        if official.fusion is not None:
            raise WeightsError(f"{path}: holds GMMT, too; expected {kind} alone, to train it on")
        own = ("head.stage2.",)  # new in the file's tracker, as in this one
        state = {k: v for k, v in official.state_dict().items() if not k.startswith(own)}
        tracker.load_state_dict(state, strict=False)
    elif kind == "ostrack" and not isinstance(tracker, Siamese):
        known = inspect.signature(KINDS[kind]).parameters
        options = {name: value for name, value in config.tracker.args.items() if name in known}
        tracker.inherit(load_official(kind, path, **options))
    else:
        raise SettingError(f"{config.name}: a {config.tracker.kind} cannot start from {kind}")

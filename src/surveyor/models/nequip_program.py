"""NequIP's training program, which says by its exit code when memory is lacking.

    python -m surveyor.models.nequip_program OVERRIDES

It runs in the directory of a training, with the config.yaml there; see `nequip-train` for the overrides.
"""

from surveyor.models.trainer_process import telling_when_memory_is_lacking


def main() -> None:
    """Run NequIP's training program."""
    from nequip.scripts import train

    with telling_when_memory_is_lacking():
        train.main()


if __name__ == "__main__":
    main()

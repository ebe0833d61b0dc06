"""`surveyor blocks`: the settings that Prefect stores for surveyor."""

import argparse

from rich.console import Console


def add_block_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `blocks` and its subcommands."""
    blocks = commands.add_parser(
        "blocks",
        help="register the blocks that Prefect stores for surveyor: pools, codes and storages",
        epilog="example: surveyor blocks register",
    )
    actions = blocks.add_subparsers(required=True, metavar="ACTION")
    register = actions.add_parser(
        "register",
        help="register the kinds of pools, codes and storages with the Prefect server, and create an example of each",
        epilog="example: surveyor blocks register",
    )
    register.set_defaults(command=_register)


def _register(_options: argparse.Namespace, console: Console) -> None:
    from prefect.settings import PREFECT_API_URL

    from surveyor.blocks.codes import CODES
    from surveyor.blocks.pools import POOLS
    from surveyor.blocks.registration import create_examples, examples, register_types
    from surveyor.blocks.storages import STORAGES
    from surveyor.flows.server import using_server

    with using_server() as server:
        console.print(server)
        register_types()
        console.print(f"kinds of pools: {', '.join(POOLS)}; codes: {', '.join(CODES)}; storages: {', '.join(STORAGES)}")
        purposes = {name: purpose for name, (_, purpose) in examples().items()}
        for name, is_new in create_examples().items():
            console.print(f"  {name} {'(created)' if is_new else '(exists)'}: {purposes[name]}")
        page = f"{PREFECT_API_URL.value().removesuffix('/api')}/v2/blocks"
    console.print(
        f"edit them, or create others, at {page}; campaigns name them, such as: pools: {{labelling: slurm/example}}, "
        "codes: {cp2k: cp2k/example}, storage: s3/example"
    )

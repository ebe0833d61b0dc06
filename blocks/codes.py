"""Codes as blocks of Prefect: how a program is run at a site, under a name that campaigns give as `cp2k/genoa`."""

from prefect.client.orchestration import SyncPrefectClient
from pydantic import HttpUrl

from surveyor.blocks.site_blocks import SiteBlock, asking_server, stored_block, stored_names, stripped
from surveyor.reference.choice import Codes
from surveyor.reference.cp2k_code import CP2KCode

CP2K_LOGO = HttpUrl("https://avatars.githubusercontent.com/u/43480692?s=200&v=4")


class CP2KCodeBlock(CP2KCode, SiteBlock):
    """Command, resources and limits of CP2K at a site. Campaigns name the block as cp2k/genoa, for instance.

    Example:
        Store a code, and load a stored one:
        ```python
        from surveyor.blocks.codes import CP2KCodeBlock

        CP2KCodeBlock(
            command="srun --ntasks={ranks} cp2k.psmp", ranks=32, memory_GB=60, timeout_minutes=30
        ).save("genoa")
        code = CP2KCodeBlock.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "CP2K code"
    _block_type_slug = "cp2k"
    _logo_url = CP2K_LOGO
    _documentation_url = HttpUrl("https://manual.cp2k.org")

    @property
    def code(self) -> CP2KCode:
        """The code, without the fields that Prefect adds."""
        return stripped(self, CP2KCode)


CODES: dict[str, type[CP2KCodeBlock]] = {"cp2k": CP2KCodeBlock}


def load_codes(codes: Codes) -> Codes:
    """Return codes, with names of blocks replaced by their contents.

    Raises:
        InputError: the block is missing or wrong, or the server does not answer.
    """
    name = codes.cp2k_block
    if name is None:
        return codes
    with asking_server(f"code {name}") as client:
        block = stored_block(client, CP2KCodeBlock, name, "code", lambda: stored_codes(client))
    return codes.model_copy(update={"cp2k": block.code, "cp2k_block": None})


def stored_codes(client: SyncPrefectClient) -> list[str]:
    """Return the names of the codes that a server has, such as `cp2k/genoa`."""
    return stored_names(client, CODES)

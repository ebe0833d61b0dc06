"""Labelling as a kind of work: its checked input, and the parameters that may change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ase import Atoms

from surveyor.labels import LevelOfTheory
from surveyor.pools.site import Site
from surveyor.reading import Reading, ReadingReport, read_unchecked
from surveyor.reference.choice import make_reference
from surveyor.reference.reference import Reference, time_limit_of
from surveyor.works.checks import check_walltime
from surveyor.works.labelling.parameters import LabellingParameters
from surveyor.works.labelling.requests import Chunk, Requests, default_chunk_size, make_requests
from surveyor.works.work import Kind, Work


@dataclass(frozen=True, slots=True)
class CheckedLabelling:
    """Results of the checks of a labelling.

    Attributes:
        reading: of the structures.
        reference: computes labels.
    """

    reading: Reading
    reference: Reference

    @property
    def reports(self) -> tuple[ReadingReport, ...]:
        """The report on the file of structures."""
        return (self.reading.report,)


class Labelling(Work[LabellingParameters, CheckedLabelling]):
    """A labelling, checked and open."""

    @property
    def structures(self) -> Sequence[Atoms]:
        """The structures that are to be labelled, in the order of the file."""
        return self.checked.reading.structures

    def requests(self, theory: LevelOfTheory) -> Requests:
        """Return the requests at a level of theory; structures that cannot be labelled are refused."""
        return make_requests(self.structures, theory, self.checked.reference, self.checked.reading.refused)

    def chunks(self, requests: Requests) -> list[Chunk]:
        """Return the requests in the chunks of the tasks."""
        size = self.parameters.chunk_size or default_chunk_size(self.checked.reference, len(requests.by_key))
        return requests.chunks(size)


def _make(parameters: LabellingParameters) -> CheckedLabelling:
    """Read the input of the reference and the structures."""
    reference = make_reference(parameters.reference, parameters.codes.without_blocks)
    return CheckedLabelling(read_unchecked(parameters.structures, "structures"), reference)


def _check_sites(parameters: LabellingParameters, checked: CheckedLabelling, sites: Mapping[str, Site]) -> None:
    limit = time_limit_of(checked.reference)
    limit = None if limit is None else limit * (parameters.chunk_size or 1)
    check_walltime("pool", parameters.pool, sites.get(parameters.pool), limit)


LABELLING = Kind(
    name="labelling",
    parameters=LabellingParameters,
    work=Labelling,
    field="structures",
    expected="structures, output_directory and reference",
    may_change=("output_directory", "labels", "storage", "pool", "codes", "chunk_size"),
    advice="choose another output directory, or restore the parameters; the labels are in the store in any case",
    make=_make,
    check_sites=_check_sites,
)

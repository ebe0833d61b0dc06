"""CP2K's names of units, in the words of the library that converts values.

CP2K ignores case. The library does not where a name is ambiguous: it reads [mpa] as millipascal, [PS] as petaseconds,
and [nm] not at all.
"""

import re

NAME = re.compile(r"[A-Za-z_]+")
JOULE_PER_MOL = 1 / 6.02214076e23  # CODATA 2018
LIBRARY = {
    "hartree": "hartree",
    "au_e": "hartree",
    "wavenumber_e": "(1.986445857e-23*joule)",  # h c / cm, CODATA 2018
    "joule": "joule",
    "kcalmol": f"({4184 * JOULE_PER_MOL:.12e}*joule)",
    "kjmol": f"({1000 * JOULE_PER_MOL:.12e}*joule)",
    "ry": "Ry",
    "ev": "eV",
    "kev": "keV",
    "k_e": "K_e",
    "bohr": "bohr",
    "au_l": "bohr",
    "m": "meter",
    "pm": "picometer",
    "nm": "nanometer",
    "angstrom": "angstrom",
    "k": "kelvin",
    "k_temp": "kelvin",
    "au_temp": "au_temp",
    "bar": "bar",
    "atm": "atm",
    "kbar": "kbar",
    "pa": "pascal",
    "mpa": "megapascal",
    "gpa": "gigapascal",
    "au_p": "au_p",
    "rad": "radian",
    "deg": "degree",
    "s": "second",
    "fs": "femtosecond",
    "ps": "picosecond",
    "au_t": "au_t",
    "kg": "kilogram",
    "amu": "amu",
    "m_e": "m_e",
    "au_m": "m_e",
    "n": "newton",
    "newton": "newton",
    "mn": "millinewton",
    "mnewton": "millinewton",
    "au_f": "au_f",
}


def in_words_of_the_library(word: str) -> str:
    """Return a word of a line; where it is a unit, such as [eV] or [hartree*bohr^-1], in the library's names."""
    if not (word.startswith("[") and word.endswith("]")):
        return word
    return NAME.sub(lambda found: LIBRARY.get(found[0].lower(), found[0]), word)

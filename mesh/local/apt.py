"""Fetches one package of an older Debian release through the machine's own APT.

Debian 12 and 13 carry no Consul; Debian 11 does, and the mirror that the machine already trusts
serves that release too. So the machine's own source entries are copied with another release name
into a private APT folder (own lists, own cache, nothing installed, nothing changed on the system),
which keeps mirrors, proxies and keys as the machine's owner set them, and needs no root.
"""

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from mesh.local.command import run_command

Stanza = Mapping[str, str]
"""One deb822 source entry: field name in lower case -> value, continuation lines included."""

_ONE_LINE = re.compile(
    r"\s*(?P<types>deb|deb-src)\s+(\[(?P<options>[^]]*)\]\s*)?"
    r"(?P<uris>\S+)\s+(?P<suites>\S+)\s+(?P<components>[^#]*[^#\s])"
)
_ONE_LINE_OPTIONS = {"signed-by", "trusted", "allow-insecure"}


def parse_deb822(text: str) -> list[Stanza]:
    """Reads the entries of a `.sources` file."""
    stanzas: list[dict[str, str]] = [{}]
    field = ""
    for line in text.splitlines():
        if not line.strip():
            stanzas.append({})
        elif line.startswith("#"):
            continue
        elif line[0].isspace():
            stanzas[-1][field] += f"\n{line}"
        else:
            field, _, value = line.partition(":")
            field = field.lower()
            stanzas[-1][field] = value.strip()
    return [stanza for stanza in stanzas if stanza]


def parse_one_line(text: str) -> list[Stanza]:
    """Reads the entries of a classic `sources.list`."""
    matches = (_ONE_LINE.match(line) for line in text.splitlines())
    return [_read_entry(match) for match in matches if match]


def _read_entry(match: re.Match[str]) -> Stanza:
    pairs = (option.partition("=") for option in (match["options"] or "").split())
    options = {name: value for name, _, value in pairs if name in _ONE_LINE_OPTIONS}
    return options | {field: match[field] for field in ("types", "uris", "suites", "components")}


def derive_sources(stanzas: Iterable[Stanza], release: str, wanted: str) -> str:
    """The machine's entries for `release`, rewritten to `wanted`: the text of a `.sources` file."""
    derived = [_derive(stanza, wanted) for stanza in stanzas if _serves(stanza, release)]
    return "\n\n".join(dict.fromkeys(derived))


def _serves(stanza: Stanza, release: str) -> bool:
    return (
        "deb" in stanza.get("types", "").split()
        and stanza.get("enabled", "yes").lower() not in {"no", "false", "0"}
        and not {release, "stable"}.isdisjoint(stanza.get("suites", "").split())
        and "main" in stanza.get("components", "").split()
    )


def _derive(stanza: Stanza, wanted: str) -> str:
    changed = {"types": "deb", "suites": wanted, "components": "main"}
    return "\n".join(f"{field}: {value}" for field, value in {**stanza, **changed}.items())


def read_sources(etc: Path = Path("/etc/apt")) -> list[Stanza]:
    """All source entries of this machine, old style and new."""
    lists = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*.list"))]
    stanzas = [s for path in lists if path.is_file() for s in parse_one_line(path.read_text())]
    for path in sorted((etc / "sources.list.d").glob("*.sources")):
        stanzas += parse_deb822(path.read_text())
    return stanzas


def fetch_package(package: str, sources: str, into: Path) -> None:
    """Unpacks `package` into the folder `into`; raises CommandFailed with APT's own words."""
    private = into / ".apt"
    apt = ["apt-get", "-c", str(_write_private_apt(private, sources)), "-qq"]
    run_command([*apt, "-o", "APT::Update::Error-Mode=any", "update"], cwd=private)
    run_command([*apt, "download", package], cwd=private)
    (archive,) = private.glob(f"{package}_*.deb")
    run_command(["dpkg-deb", "-x", str(archive), str(into)], cwd=private)
    shutil.rmtree(private)


def _write_private_apt(private: Path, sources: str) -> Path:
    for folder in ("parts", "state/lists/partial", "cache/archives/partial"):
        (private / folder).mkdir(parents=True)
    (private / "parts/derived.sources").write_text(f"{sources}\n")
    config = private / "apt.conf"
    # The hooks that a system runs after its own updates have no business here, and _apt, the user
    # to whom APT drops its rights, could not write into a private folder.
    config.write_text(f"""\
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Dir::State "{private}/state";
Dir::Cache "{private}/cache";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{private}/parts";
Acquire::Languages "none";
APT::Sandbox::User "";
""")
    return config

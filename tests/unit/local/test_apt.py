import pytest

from mesh.local.apt import derive_sources, parse_deb822, parse_one_line

DEB822 = """\
Types: deb
# a comment
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
"""


def test_deb822_entry_is_rewritten_with_its_key_block() -> None:
    derived = derive_sources(parse_deb822(DEB822), "bookworm", "bullseye")
    assert derived == (
        "types: deb\n"
        "uris: http://mirror.example/debian\n"
        "suites: bullseye\n"
        "components: main\n"
        "signed-by: \n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc"
    )


def test_one_line_entry_is_rewritten_with_its_options() -> None:
    text = (
        "# the mirror\n"
        "deb [arch=a signed-by=/keys/a.gpg] https://mirror.example/debian bookworm main # yes\n"
        "deb-src https://mirror.example/debian bookworm main\n"
    )
    assert derive_sources(parse_one_line(text), "bookworm", "bullseye") == (
        "signed-by: /keys/a.gpg\n"
        "types: deb\n"
        "uris: https://mirror.example/debian\n"
        "suites: bullseye\n"
        "components: main"
    )


@pytest.mark.parametrize(
    "line",
    [
        "deb http://packages.example/apt tool-bookworm main",
        "deb http://mirror.example/debian bookworm contrib",
        "deb http://mirror.example/debian bookworm-security main",
        "garbage",
        "",
    ],
)
def test_entries_that_are_not_the_release_itself_are_left_out(line: str) -> None:
    assert derive_sources(parse_one_line(line), "bookworm", "bullseye") == ""


def test_the_same_mirror_listed_twice_is_asked_once() -> None:
    line = "deb http://mirror.example/debian bookworm main"
    derived = derive_sources(parse_one_line(f"{line}\n{line}"), "bookworm", "bullseye")
    assert derived.count("types:") == 1


def test_entries_for_stable_serve_too() -> None:
    stanzas = parse_one_line("deb http://mirror.example/debian stable main")
    assert "suites: bullseye" in derive_sources(stanzas, "bookworm", "bullseye")

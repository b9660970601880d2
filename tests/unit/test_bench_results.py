from bench.results import replace_section

PAGE = "# Results\n\n## One\nfirst\n\n| a |\n\n## Two\nsecond\n\n### Two and a half\nmore\n"


def test_a_section_takes_the_place_of_the_one_with_its_heading() -> None:
    assert replace_section(PAGE, "## One\nnew \\1\n\n") == (
        "# Results\n\n## One\nnew \\1\n\n## Two\nsecond\n\n### Two and a half\nmore\n"
    )


def test_the_last_section_goes_with_all_that_is_below_it() -> None:
    expected = "# Results\n\n## One\nfirst\n\n| a |\n\n## Two\nnew\n"
    assert replace_section(PAGE, "## Two\nnew") == expected


def test_a_section_that_is_not_there_comes_last() -> None:
    assert replace_section(PAGE, "## Tw\nnew\n") == f"{PAGE}\n## Tw\nnew\n"


def test_keeping_twice_is_keeping_once() -> None:
    once = replace_section(PAGE, "## One\nnew")
    assert replace_section(once, "## One\nnew") == once

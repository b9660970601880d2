from pathlib import Path

from mesh.local.child import LOG_KEPT_BYTES, bound_log, describe_exit, read_tail


def test_an_end_is_told_in_words() -> None:
    assert describe_exit(-9) == "killed by SIGKILL"
    assert describe_exit(3) == "exit status 3"


def test_a_long_log_is_set_aside_and_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "node.log"
    with log.open("ab") as writer:
        writer.truncate(LOG_KEPT_BYTES + 1)
        bound_log(log)
        writer.write(b"on\n")
    assert log.read_bytes() == b"on\n"
    assert (tmp_path / "node.log.1").stat().st_size == LOG_KEPT_BYTES + 1


def test_a_short_log_stays(tmp_path: Path) -> None:
    log = tmp_path / "node.log"
    bound_log(log)
    log.write_text("short\n")
    bound_log(log)
    assert [path.name for path in tmp_path.iterdir()] == ["node.log"]


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "node.log"
    assert read_tail(log, 3) == []
    log.write_text("".join(f"line {number}\n" for number in range(9999)))
    assert read_tail(log, 2) == ["line 9997", "line 9998"]


def test_the_tail_of_a_log_has_as_many_lines_as_asked_for_and_all_of_them_whole(
    tmp_path: Path,
) -> None:
    log = tmp_path / "node.log"
    written = [f"line {number}" for number in range(50)]
    log.write_text("\n".join(written) + "\n")
    for count in (0, 1, 7, 49, 50, 60):
        for window_bytes in (1, 10, 64, 100_000):
            tail = read_tail(log, count, window_bytes=window_bytes)
            assert tail == (written[-count:] if count else []), (count, window_bytes)
